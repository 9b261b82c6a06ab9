"""Exports a network as StableHLO: one file that jax runs on any device, and a short loader script next to it."""

import json
from pathlib import Path

import jax
import numpy as np

from fer_jax.apps.exports import loader
from fer_jax.apps.exports.program import check, faces_of, metadata, program, whole_file
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import write_text

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH = 4  # batch size tested; jax handles the symbolic batch size, so one is enough
LOADER = "load_exported.py"


def write(classifier: TrainedModel, path: Path) -> float:
  """Writes a network as a .npz file, atomically, and the loader script next to it.

  The file has three entries: `program`, serialized by `jax.export` for all PLATFORMS; `class_names` [K]; and
  `metadata`, JSON. jax guarantees that programs can be loaded by later versions for at least six months.

  Args:
    classifier: Network to export.
    path: Path of the file.

  Returns:
    Largest difference from the network's probabilities, on noise and on smooth test images.

  Raises:
    UserError: The file or its loader cannot be written, or the file has the loader's name.
    Failure: The probabilities of the written file differ from the network's.
  """
  if path.name == LOADER:
    raise UserError(f"{path}: the loader script next to the file has this name; expected another, such as faces.npz")
  with whole_file(path) as partial:
    exported = jax.export.export(jax.jit(program(classifier)), platforms=PLATFORMS)(faces_of(classifier))
    with partial.open("wb") as file:
      np.savez(
        file,
        program=np.frombuffer(exported.serialize(), np.uint8),
        class_names=np.array(classifier.class_names),
        metadata=np.array(json.dumps(metadata(classifier))),
      )
    difference = check(loader.load(partial)[0], classifier, (BATCH,))
    # Written before the file appears at its path, so the file never exists without its loader.
    write_text(path.with_name(LOADER), Path(loader.__file__).read_text(encoding="utf-8"))
  return difference
