"""What every exported file computes and says of itself."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fer_jax
from fer_jax.classifier import Classifier, classify
from fer_jax.errors import Failure, UserError

INPUT, OUTPUT = "faces", "probabilities"
TOLERANCE = 1e-4  # of a probability

# uint8 [B, H, W, C] -> float32 [B, K].
Program = Callable[[Any], Any]


def program(classifier: Classifier) -> Program:
  """Returns what is exported: uint8 faces [B, H, W, C] to probabilities, float32 [B, K]; pure, to be traced."""

  def probabilities(faces: jax.Array) -> jax.Array:
    logits = classify(classifier.network, classifier.params, classifier.stats, faces)
    return jax.nn.softmax(logits / classifier.temperature)

  return probabilities


def faces_of(classifier: Classifier) -> jax.ShapeDtypeStruct:
  """Returns the program's input: uint8 [B, H, W, C], B being any number."""
  (batch,) = jax.export.symbolic_shape("B")
  return jax.ShapeDtypeStruct((batch, *classifier.shape), np.uint8)


def metadata(classifier: Classifier) -> dict[str, Any]:
  """Returns what a file says of itself, as JSON: of its network, of the faces that it expects, of the versions."""
  origin = {key: value for key, value in classifier.origin.items() if key != "versions"}
  return {
    "fer_jax": fer_jax.__version__,
    "jax": jax.__version__,
    **origin,
    "class_names": list(classifier.class_names),
    "shape": list(classifier.shape),
    "crop": classifier.crop,
    "margin": classifier.margin,
    "temperature": classifier.temperature,
  }


@contextlib.contextmanager
def whole_file(path: Path, suffix: str = "") -> Iterator[Path]:
  """Yields where to write a file that is to stand at `path`; it is moved there at the end, and lost after an error.

  Args:
    path: Path of the file.
    suffix: End of the name of what is yielded.

  Raises:
    UserError: the folder or the file cannot be written.
  """
  partial = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
  try:
    if path.is_dir():
      raise IsADirectoryError("it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      partial.touch()  # before the work that fills it
      yield partial
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(f"{path}: expected to write here, but {error}; free the place or choose another") from None


def check(run: Program, classifier: Classifier, sizes: Sequence[int], tolerance: float = TOLERANCE) -> float:
  """Compares a file with the network that it was made of, on noise and on smooth faces, the same each time.

  Args:
    run: computes the file.
    classifier: what it was made of.
    sizes: of the batches that it is tried with.
    tolerance: of a probability.

  Returns:
    the largest difference of a probability.

  Raises:
    Failure: it is larger than the tolerance.
  """
  differences = []
  for faces in (_noise(max(sizes), classifier.shape), _smooth(max(sizes), classifier.shape)):
    expected = classifier.probability(faces)
    differences += [np.abs(np.asarray(run(faces[:size])) - expected[:size]).max() for size in sizes]
  # A difference that is not a number is a large one.
  difference = float(np.max(np.nan_to_num(differences, nan=np.inf)))
  if difference > tolerance:
    raise Failure(
      f"the exported program's probabilities differ from the network's by {difference:.2g}, more than {tolerance:g}; "
      "nothing is written: choose the other format"
    )
  return difference


def _noise(count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Returns uint8 [N, H, W, C], each value drawn by itself; of these a trained network is often certain."""
  return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def _smooth(count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Returns uint8 [N, H, W, C]: shades of low contrast with little noise, each in a direction; the last is constant."""
  height, width, channels = shape
  down, across = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
  angles = np.linspace(0.4, 2.4, count)[:, None, None, None]  # radians
  shades = 40 * (np.cos(angles) * across + np.sin(angles) * down)
  faces = 128 + shades + np.random.default_rng(0).normal(0, 3, (count, height, width, channels))
  faces[count - 1 :] = 128
  return np.clip(np.round(faces), 0, 255).astype(np.uint8)
