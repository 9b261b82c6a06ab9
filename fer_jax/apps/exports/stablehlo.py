"""A network as StableHLO: one file that jax runs on any device, with a loader of a few lines beside it."""

import json
from pathlib import Path

import jax
import numpy as np

from fer_jax.apps.exports import loader
from fer_jax.apps.exports.program import check, faces_of, metadata, program, whole_file
from fer_jax.apps.report_page.run_files import write_text
from fer_jax.classifier import Classifier
from fer_jax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH = 4  # that a file is tried with; for one number of faces jax compiles as for any other
LOADER = "load_exported.py"


def write(classifier: Classifier, path: Path) -> float:
  """Writes a network whole or not at all, and its loader beside it.

  The file is a .npz: `program`, the bytes that `jax.export` serializes, for all PLATFORMS; `class_names` [K];
  `metadata`, JSON. jax reads what an earlier version wrote, for half a year and more.

  Args:
    classifier: the network.
    path: of the file.

  Returns:
    the largest difference from the network's own probabilities, on noise and on smooth faces.

  Raises:
    UserError: the file or its loader cannot be written, or the file is to have the loader's name.
    Failure: the file, read back, differs from the network.
  """
  if path.name == LOADER:
    raise UserError(f"{path}: the loader that is written beside the file has this name; expected another, as faces.npz")
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
    # Before the file appears, which is to have its loader.
    write_text(path.with_name(LOADER), Path(loader.__file__).read_text(encoding="utf-8"))
  return difference
