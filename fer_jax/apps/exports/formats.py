"""Exported function of a network, its StableHLO and safetensors files, and the check of an exported file."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fer_jax
from fer_jax.apps.exports import loader
from fer_jax.inference import model_file, trained_model
from fer_jax.inference.trained_model import TrainedModel, classify
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.runtime.files import write_text

INPUT, OUTPUT = "faces", "probabilities"
TOLERANCE = 1e-4  # maximum difference of a probability
# Maximum difference of a safetensors file, by bits; 8-bit rounding can change an uncertain prediction noticeably.
WEIGHT_TOLERANCES = {8: 0.1, 16: 0.01, 32: 1e-6}
BATCH = 4  # batch size tested; jax handles the symbolic batch size, so one is enough
PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = "load_exported.py"

# Function from faces, uint8 [B, H, W, C], to probabilities, float32 [B, K].
Program = Callable[[Any], Any]


def exported_function(model: TrainedModel) -> Program:
  """Returns the pure function to export, which includes preprocessing, temperature scaling and softmax."""

  def probabilities(faces: jax.Array) -> jax.Array:
    logits = classify(model.network, model.params, model.stats, faces)
    return jax.nn.softmax(logits / model.temperature)

  return probabilities


def input_spec(model: TrainedModel) -> jax.ShapeDtypeStruct:
  """Returns the input specification of the program: uint8 [B, H, W, C] with symbolic batch size B."""
  (batch,) = jax.export.symbolic_shape("B")
  return jax.ShapeDtypeStruct((batch, *model.shape), np.uint8)


def metadata(model: TrainedModel) -> dict[str, Any]:
  """Returns the metadata of an exported file as JSON values: network, expected input, class names and versions."""
  origin = {key: value for key, value in model.origin.items() if key != "versions"}
  return {
    "fer_jax": fer_jax.__version__,
    "jax": jax.__version__,
    **origin,
    "class_names": list(model.class_names),
    "shape": list(model.shape),
    "crop": model.crop,
    "margin": model.margin,
    "temperature": model.temperature,
  }


@contextlib.contextmanager
def atomic_file(path: Path, suffix: str = "") -> Iterator[Path]:
  """Yields a temporary path for writing a file; moves it to `path` at the end, or removes it after an error.

  Args:
    path: Final path of the file; its folder is created if it does not exist.
    suffix: Suffix of the temporary path.

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


def check(run: Program, model: TrainedModel, sizes: Sequence[int], tolerance: float = TOLERANCE) -> float:
  """Compares an exported file with its network on fixed test images: noise and smooth gradients.

  Args:
    run: Function that runs the exported file.
    model: Network from which the file was exported.
    sizes: Batch sizes to test; 0 is an empty batch.
    tolerance: Maximum difference of a probability.

  Returns:
    Largest difference of a probability.

  Raises:
    Failure: The difference exceeds the tolerance.
  """
  differences = []
  for faces in (_noise(max(sizes), model.shape), _smooth(max(sizes), model.shape)):
    expected = model.probability(faces)
    differences += [np.abs(np.asarray(run(faces[:size])) - expected[:size]).max(initial=0.0) for size in sizes]
  # NaN counts as an infinite difference.
  difference = float(np.max(np.nan_to_num(differences, nan=np.inf)))
  if difference > tolerance:
    raise Failure(
      f"the exported program's probabilities differ from the network's by {difference:.2g}, more than {tolerance:g}; "
      "nothing was written; choose another format"
    )
  return difference


def write_stablehlo(model: TrainedModel, path: Path) -> float:
  """Writes a network as a .npz file, atomically, and the loader script next to it.

  The file has three entries: `program`, serialized by `jax.export` for all PLATFORMS; `class_names` [K]; and
  `metadata`, JSON. jax guarantees that programs can be loaded by later versions for at least six months.

  Args:
    model: Network to export.
    path: Path of the file.

  Returns:
    Largest difference from the network's probabilities, on noise and on smooth test images.

  Raises:
    UserError: The file or its loader cannot be written, or the file has the loader's name.
    Failure: The probabilities of the written file differ from the network's.
  """
  if path.name == LOADER:
    raise UserError(f"{path}: the loader script next to the file has this name; expected another, such as faces.npz")
  with atomic_file(path) as partial:
    exported = jax.export.export(jax.jit(exported_function(model)), platforms=PLATFORMS)(input_spec(model))
    with partial.open("wb") as file:
      np.savez(
        file,
        program=np.frombuffer(exported.serialize(), np.uint8),
        class_names=np.array(model.class_names),
        metadata=np.array(json.dumps(metadata(model))),
      )
    difference = check(loader.load(partial)[0], model, (BATCH,))
    # Written before the file appears at its path, so the file never exists without its loader.
    write_text(path.with_name(LOADER), Path(loader.__file__).read_text(encoding="utf-8"))
  return difference


def write_safetensors(model: TrainedModel, path: Path, bits: int = 16) -> float:
  """Writes a network as a safetensors file, atomically.

  Args:
    model: Network to export.
    path: Path of the file.
    bits: Bits per number in large kernels: 8 (int8 with one scale per output channel), 16 (float16) or 32.

  Returns:
    Largest difference from the network's probabilities, on noise and on smooth test images.

  Raises:
    UserError: The file cannot be written.
    Failure: The probabilities of the written file differ from the network's.
  """
  description = {
    "model": dict(model.model_config),
    "precision": model.precision,
    "class_names": list(model.class_names),
    "shape": list(model.shape),
    "crop": model.crop,
    "temperature": model.temperature,
    "origin": dict(model.origin) | {"bits": bits},
  }
  with atomic_file(path, model_file.SUFFIX) as partial:
    model_file.write(partial, model_file.StoredModel(dict(model.params), dict(model.stats), description), bits)
    # Check the file as it will be used: loaded again, with dequantized weights.
    return check(trained_model.load(partial).probability, model, (BATCH,), WEIGHT_TOLERANCES[bits])


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
