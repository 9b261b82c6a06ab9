"""A network as safetensors: its weights in 8, 16 or 32 bits, and all that `fer_jax.load` needs to use them."""

from pathlib import Path

import numpy as np

from fer_jax import classifier as classifiers
from fer_jax.apps.exports.program import check, whole_file
from fer_jax.classifier import Classifier
from fer_jax.pretrained import model_file

BATCH = 4  # that a file is tried with
# Largest difference of a probability by the number of bits: rounding to 8 bits moves an uncertain answer.
TOLERANCES = {8: 0.1, 16: 0.01, 32: 1e-6}


def write(classifier: Classifier, path: Path, bits: int = 16) -> float:
  """Writes a network whole or not at all.

  Args:
    classifier: The network.
    path: Path of the file.
    bits: Bits of a number of a large kernel: 8 (int8 with a scale for each output channel), 16 (float16) or 32.

  Returns:
    Largest difference from the network's own probabilities, on noise and on smooth faces.

  Raises:
    UserError: the file cannot be written.
    Failure: the file, read back, differs from the network.
  """
  description = {
    "model": dict(classifier.model),
    "precision": classifier.precision,
    "class_names": list(classifier.class_names),
    "shape": list(classifier.shape),
    "crop": classifier.crop,
    "temperature": classifier.temperature,
    "origin": dict(classifier.origin) | {"bits": bits},
  }
  with whole_file(path, model_file.SUFFIX) as partial:
    model_file.write(partial, model_file.Model(dict(classifier.params), dict(classifier.stats), description), bits)
    written = classifiers.load(partial)

    def run(faces: np.ndarray) -> np.ndarray:
      return written.probability(faces)

    return check(run, classifier, (BATCH,), TOLERANCES[bits])
