"""The function and metadata that are common to all export formats, and the check of an exported file."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fer_jax
from fer_jax.inference.trained_model import TrainedModel, classify
from fer_jax.runtime.errors import Failure, UserError

INPUT, OUTPUT = "faces", "probabilities"
TOLERANCE = 1e-4  # maximum difference of a probability

# Function from faces, uint8 [B, H, W, C], to probabilities, float32 [B, K].
Program = Callable[[Any], Any]


def program(classifier: TrainedModel) -> Program:
  """Returns the function to export, which includes preprocessing, temperature scaling and softmax.

  Args:
    classifier: Network to export.

  Returns:
    Pure function from faces, uint8 [B, H, W, C], to probabilities, float32 [B, K].
  """

  def probabilities(faces: jax.Array) -> jax.Array:
    logits = classify(classifier.network, classifier.params, classifier.stats, faces)
    return jax.nn.softmax(logits / classifier.temperature)

  return probabilities


def faces_of(classifier: TrainedModel) -> jax.ShapeDtypeStruct:
  """Returns the input specification of the program: uint8 [B, H, W, C] with symbolic batch size B."""
  (batch,) = jax.export.symbolic_shape("B")
  return jax.ShapeDtypeStruct((batch, *classifier.shape), np.uint8)


def metadata(classifier: TrainedModel) -> dict[str, Any]:
  """Returns the metadata of an exported file as JSON values: network, expected input, class names and versions."""
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
  """Yields a temporary path for writing a file; moves it to `path` at the end, or removes it after an error.

  Args:
    path: Final path of the file; its folder is created if it does not exist.
    suffix: Suffix of the temporary path.

  Yields:
    Temporary path in the same folder.

  Raises:
    UserError: The folder or the file cannot be written.
  """
  partial = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
  try:
    if path.is_dir():
      raise IsADirectoryError("it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      partial.touch()  # fail early, before the export itself
      yield partial
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error}); free disk space or choose another path") from None


def check(run: Program, classifier: TrainedModel, sizes: Sequence[int], tolerance: float = TOLERANCE) -> float:
  """Compares an exported file with its network on fixed test images: noise and smooth gradients.

  Args:
    run: Function that runs the exported file.
    classifier: Network from which the file was exported.
    sizes: Batch sizes to test.
    tolerance: Maximum difference of a probability.

  Returns:
    Largest difference of a probability.

  Raises:
    Failure: The difference exceeds the tolerance.
  """
  differences = []
  for faces in (_noise(max(sizes), classifier.shape), _smooth(max(sizes), classifier.shape)):
    expected = classifier.probability(faces)
    differences += [np.abs(np.asarray(run(faces[:size])) - expected[:size]).max() for size in sizes]
  # NaN counts as an infinite difference.
  difference = float(np.max(np.nan_to_num(differences, nan=np.inf)))
  if difference > tolerance:
    raise Failure(
      f"the exported program's probabilities differ from the network's by {difference:.2g}, more than {tolerance:g}; "
      "nothing was written; choose another format"
    )
  return difference


def _noise(count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Returns uniform noise, uint8 [N, H, W, C]; trained networks are often certain about such images."""
  return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def _smooth(count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Returns low-contrast gradients in N directions with little noise, uint8 [N, H, W, C]; the last is constant."""
  height, width, channels = shape
  down, across = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
  # Brightness 128 +- 40 * (cos(angle) * x + sin(angle) * y), for coordinates x and y from -1 to 1.
  angles = np.linspace(0.4, 2.4, count)[:, None, None, None]  # radians
  shades = 40 * (np.cos(angles) * across + np.sin(angles) * down)
  faces = 128 + shades + np.random.default_rng(0).normal(0, 3, (count, height, width, channels))
  faces[count - 1 :] = 128
  return np.clip(np.round(faces), 0, 255).astype(np.uint8)
