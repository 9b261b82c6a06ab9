"""Sources of pretrained weights: arrays by name, and the mapping from our variables to the source's names and axes."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from fer_jax.inference import model_file
from fer_jax.pretrained import run_folder, weights_file
from fer_jax.runtime.errors import UserError

# Path of one of our variables: collection ("params" or "stats"), layer, and the names inside the layer.
Variable = tuple[str, ...]

CLASSIFIER = "classifier"  # layer name in all of our networks with a single extractor
_BLOCK = re.compile(r"layer(\d+)_(\d+)")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# PyTorch's BatchNorm counts its batches in this buffer; it has no counterpart here.
_BATCH_COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Source:
  """Pretrained weights, with the mapping from our variables to them.

  Attributes:
    path: Path of the file or folder.
    sha256: SHA-256 digest of the file, or of the run's result.json.
    arrays: Arrays under the source's names.
    name_of: Function from one of our variables to its name in the source; None if the source has no counterpart.
    axes: Axis permutation from the source's layout to ours, by the number of axes; identity where absent.
    advice: Advice for the error message if source and network differ in architecture.
  """

  path: Path
  sha256: str
  arrays: Mapping[str, np.ndarray]
  name_of: Callable[[Variable], str | None]
  axes: Mapping[int, tuple[int, ...]]
  advice: str

  def to_source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in the source's layout of one of our arrays."""
    # `axes` maps source -> ours, so the inverse permutation is needed here.
    order = self.axes.get(len(shape), range(len(shape)))
    return tuple(shape[list(order).index(axis)] for axis in range(len(shape)))

  def to_our_layout(self, array: np.ndarray) -> np.ndarray:
    """Returns an array of the source transposed to our axis order."""
    return array.transpose(self.axes.get(array.ndim, range(array.ndim)))


def open_source(path: Path) -> Source:
  """Opens a weights file with torchvision's names, the file of a trained network, or the folder of a finished run.

  Raises:
    UserError: See `weights_file.read`, `model_file.read` and `run_folder.read`.
  """
  if model_file.is_model_file(path):
    params, stats, _ = model_file.read(path)
    return _own_source(path, params, stats, path)
  if not path.is_dir():
    arrays = weights_file.read(path)
    # Convolutions (O, I, H, W) -> (H, W, I, O), linear layers (out, in) -> (in, out).
    return Source(path, _sha256(path), arrays, torchvision_name, {4: (2, 3, 1, 0), 2: (1, 0)}, _file_advice(arrays))
  params, stats, _ = run_folder.read(path)
  return _own_source(path, params, stats, path / run_folder.RESULT)


def _own_source(path: Path, params: dict[str, Any], stats: dict[str, Any], hashed_file: Path) -> Source:
  flat = flatten_dict({"params": params, "stats": stats}, sep="/")
  advice = "expected a trained network of the same config.model"
  return Source(path, _sha256(hashed_file), flat, "/".join, {}, advice)


def torchvision_name(variable: Variable) -> str | None:
  """Returns the name in torchvision's ResNet of one of our variables; None if it has no counterpart.

  For example, ("params", "layer2_0", "downsample", "conv", "kernel") maps to "layer2.0.downsample.0.weight".
  """
  _, layer, *inside, leaf = variable
  match layer, inside:
    case "stem", ["conv"]:
      module = "conv1"
    case "stem", ["norm"]:
      module = "bn1"
    case _, ["linear"] if layer == CLASSIFIER:
      module = "fc"
    case _, ["conv1" | "conv2" | "conv3" | "downsample" as unit, "conv" | "norm" as part] if _BLOCK.fullmatch(layer):
      # In torchvision, downsample.0 is the convolution and downsample.1 the normalisation; conv1 belongs to bn1.
      if unit == "downsample":
        within = f"downsample.{['conv', 'norm'].index(part)}"
      else:
        within = unit if part == "conv" else unit.replace("conv", "bn")
      module = _BLOCK.sub(rf"layer\1.\2.{within}", layer)
    case _:
      return None
  return f"{module}.{_LEAVES[leaf]}" if leaf in _LEAVES else None


def is_batch_counter(name: str) -> bool:
  """Returns whether a name is that of PyTorch's counter of batches in BatchNorm."""
  return name.rpartition(".")[2] == _BATCH_COUNTER


def stage_of(name: str) -> str:
  """Returns the stage of the network that an array of the source belongs to.

  It is "layer2" both for PyTorch's "layer2.0.conv1.weight" and for a run's "params/layer2_0/conv1/conv/kernel".
  """
  if "/" in name:
    return re.sub(r"_\d+$", "", name.split("/")[1])
  return name.split(".", maxsplit=1)[0]


def _file_advice(arrays: Mapping[str, np.ndarray]) -> str:
  blocks = {found.groups() for name in arrays if (found := re.match(r"layer(\d+)\.(\d+)\.", name))}
  if not blocks:
    return f"none of its names ({next(iter(arrays))!a}, ...) is one of torchvision's ResNet; rename its arrays"
  # Blocks per stage, and convolutions per block (2: basic, 3: bottleneck), which identify the depth.
  counts = [sum(stage == s for s, _ in blocks) for stage in sorted({s for s, _ in blocks})]
  convolutions = max(c for c in (1, 2, 3) if c == 1 or any(f".conv{c}." in name for name in arrays))
  return (
    f"the file's stages have {', '.join(map(str, counts))} blocks of {convolutions} convolutions; compare "
    "config.model.depth"
  )


def _sha256(path: Path) -> str:
  try:
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from None
