"""Exports a network as safetensors: 8-, 16- or 32-bit weights and all metadata that `fer_jax.load` requires."""

from pathlib import Path

import numpy as np

from fer_jax.apps.exports.program import check, whole_file
from fer_jax.inference import model_file, trained_model
from fer_jax.inference.trained_model import TrainedModel

BATCH = 4  # batch size tested
# Maximum difference of a probability, by bits; 8-bit rounding can change an uncertain prediction noticeably.
TOLERANCES = {8: 0.1, 16: 0.01, 32: 1e-6}


def write(classifier: TrainedModel, path: Path, bits: int = 16) -> float:
  """Writes a network as a safetensors file, atomically.

  Args:
    classifier: Network to export.
    path: Path of the file.
    bits: Bits per number in large kernels: 8 (int8 with one scale per output channel), 16 (float16) or 32.

  Returns:
    Largest difference from the network's probabilities, on noise and on smooth test images.

  Raises:
    UserError: The file cannot be written.
    Failure: The probabilities of the written file differ from the network's.
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
    # Check the file as it will be used: loaded again, with dequantized weights.
    written = trained_model.load(partial)

    def run(faces: np.ndarray) -> np.ndarray:
      return written.probability(faces)

    return check(run, classifier, (BATCH,), TOLERANCES[bits])
