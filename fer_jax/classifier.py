"""A trained network, ready to say what faces express: what is left of a run once it is finished."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax import xla
from fer_jax.config import parse, parse_model, plain_model
from fer_jax.data.augment import standardize
from fer_jax.errors import UserError
from fer_jax.models.network import Network, Tree
from fer_jax.pretrained import model_file, run_folder

# More faces than this are classified in several calls.
LARGEST_BATCH = 64

# What the names of datasets of drawn faces begin with.
_DRAWN = ("synthetic_", "drawn_")

# How training's pictures were cut, and how much longer than a detector's box their sides are, as a share of it. Sets of
# faces were cut before they came to us; FER2013's by such a detector: the one that we use finds boxes of 1.0 times the
# picture's side there (the median of 336 faces; the middle half lies between 0.97 and 1.06).
MARGINS = {"face": 0.0, "detector": 0.2, "fixed": 0.2, "none": 0.2}


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained network with everything that it needs to be asked about a face. Let K be its classes.

  Attributes:
    network: the walk over named layers.
    params: {layer name: parameters}, those that did best on validation.
    stats: {layer name: batch statistics}.
    class_names: K names, in the order of the logits.
    shape: (H, W, C) of the faces it learned from; C is 1 for grey and 3 for RGB.
    crop: how these were cut: "face" (a set of faces), or of photographs "detector", "fixed" or "none" (not at all).
    origin: whose it is, as JSON: config, dataset, step, accuracy on the test split, commit, versions.
    temperature: What logits are divided by before they become probabilities; chosen on the validation split.
    model: The network's section of a config, its name and hyper-parameters.
    precision: "float32" or "bfloat16", of its activations.
  """

  network: Network
  params: Tree
  stats: Tree
  class_names: tuple[str, ...]
  shape: tuple[int, int, int]
  crop: str
  origin: Mapping[str, Any]
  temperature: float = 1.0
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  precision: str = "float32"

  @property
  def caution(self) -> str:
    """What its user must know before believing it on photographs; "" for nothing."""
    dataset = str(self.origin.get("dataset"))
    if not dataset.startswith(_DRAWN):
      return ""
    return f"this network was trained on drawn faces ({dataset}): it does not recognise real ones"

  @property
  def margin(self) -> float:
    """How much longer than a detector's box a face's side is, as a share of it: as it was in training."""
    return MARGINS[self.crop]

  def logits(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Classifies faces.

    Args:
      faces: uint8 [N, H, W, C], as `shape` says.
      batch_size: how many go at once.

    Returns:
      float32 [N, K].

    Raises:
      ValueError: the faces have another shape or type.
    """
    self.check(faces)
    if not len(faces):
      return np.zeros((0, len(self.class_names)), np.float32)
    return in_batches(self._program, (faces,), batch_size)

  def probability(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH, views: str = "single") -> np.ndarray:
    """Returns the probability of each class, float32 [N, K], of faces as `logits` takes them.

    Args:
      faces: uint8 array of shape [N, H, W, C].
      batch_size: Maximum number of faces that go at once.
      views: "single", or "flip" for the mean over each face and its mirror image.
    """
    seen = [faces, faces[:, :, ::-1]] if views == "flip" else [faces]
    found = [softmax(self.logits(view, batch_size) / self.temperature) for view in seen]
    return np.mean(found, axis=0, dtype=np.float32)

  def check(self, faces: np.ndarray) -> None:
    """Raises ValueError unless faces are uint8 [N, H, W, C] as `shape` says."""
    if faces.dtype != np.uint8 or faces.shape[1:] != self.shape:
      expected = f"uint8 [N, {', '.join(map(str, self.shape))}]"
      raise ValueError(f"faces are {faces.dtype} {list(faces.shape)}: expected {expected}")

  @functools.cached_property
  def _program(self) -> Any:
    # The weights are arguments, so that the programs of several batch sizes share them.
    program = jax.jit(functools.partial(classify, self.network))
    variables = jax.device_put((self.params, self.stats))
    return lambda faces: program(*variables, faces)


def classify(network: Network, params: Tree, stats: Tree, faces: jax.Array) -> jax.Array:
  """Returns the logits of faces, as in evaluation: pure, to be compiled, exported or differentiated.

  Args:
    network: the walk.
    params: of all layers.
    stats: of all layers.
    faces: uint8 [B, H, W, C].

  Returns:
    float32 [B, K].
  """
  outputs, _ = network.apply(params, stats, standardize(faces))
  return outputs.logits


def in_batches(program: Callable[..., Any], arrays: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
  """Runs a compiled program over rows, batch by batch.

  Whatever their number, the program meets few shapes: a batch is filled up to a power of 2 with rows that are not read.

  Args:
    program: arrays [B, ...] -> array [B, ...].
    arrays: its arguments, [N, ...] each, N above 0.
    batch_size: the largest B.

  Returns:
    [N, ...].
  """
  count = len(arrays[0])
  found = []
  for start in range(0, count, batch_size):
    taken = min(batch_size, count - start)
    rows = min(1 << (taken - 1).bit_length(), batch_size)
    batch = [np.resize(array[start : start + taken], (rows, *array.shape[1:])) for array in arrays]
    found.append(np.asarray(program(*batch))[:taken])
  return np.concatenate(found)


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns the probabilities, float32 [N, K], of logits [N, K]; computed in float64, on the host."""
  shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


def load(path: str | os.PathLike[str] | None = None) -> Classifier:
  """Loads what a finished run has learned.

  Args:
    path: Folder of the run; of a run of several trainings, the folder of one, such as workdir/replicas/fold_0. Or a
      file that `apps.export --format=safetensors` wrote. None is the network that the package ships.

  Raises:
    UserError: no run has finished there, it is several trainings, its files are damaged, or it is of a version of
      fer_jax that did not yet record how its pictures were cut.
  """
  xla.prepare()
  if path is None:
    return _of_file(model_file.DEFAULT)
  path = Path(os.path.expanduser(path))
  return _of_file(path) if path.suffix == model_file.SUFFIX else _of_run(path)


def _of_file(path: Path) -> Classifier:
  params, stats, description = model_file.read(path)
  try:
    model, precision, origin = description["model"], description["precision"], description["origin"]
    names, (height, width, channels) = description["class_names"], description["shape"]
    return Classifier(
      network=parse_model(model).build(len(names), jnp.dtype(precision), None),
      params=params,
      stats=stats,
      class_names=tuple(names),
      shape=(height, width, channels),
      crop=description["crop"],
      temperature=description["temperature"],
      model=model,
      precision=precision,
      origin=origin,
    )
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{path}: its header lacks {error}; expected a file of apps.export --format=safetensors") from None


def _of_run(folder: Path) -> Classifier:
  params, stats = run_folder.read(folder)
  result = _json(folder / run_folder.RESULT)
  config = _json(folder / "config.json")
  try:
    face = result["input"]
    height, width, channels = map(int, face["shape"])
    names = tuple(map(str, result["class_names"]))
    # MARGINS names every crop, so an unknown one is found here.
    MARGINS[face["crop"]]
  except (KeyError, TypeError, ValueError):
    raise UserError(
      f"{folder / run_folder.RESULT}: does not say how its pictures were cut, as runs of older versions do not; "
      "expected `input`: train again"
    ) from None
  try:
    settings = parse(ConfigDict(config["config"]))
  except (KeyError, TypeError, ValueError):
    raise UserError(f"{folder / 'config.json'}: not the config.json of a run; copy the whole folder again") from None
  step = result["validation"]["step"]
  return Classifier(
    network=settings.model.build(len(names), jnp.dtype(settings.precision), None),
    params=params,
    stats=stats,
    class_names=names,
    shape=(height, width, channels),
    crop=face["crop"],
    temperature=result.get("calibration", {}).get("temperature", 1.0),  # runs of older versions have none
    model=plain_model(settings.model),
    precision=settings.precision,
    origin={
      **{key: result.get(key) for key in ("config", "dataset", "accuracy", "commit", "versions")},
      "step": step if step >= 0 else result["steps"],
    },
  )


def _json(path: Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: cannot be read ({error}); expected the folder of a finished run: copy it whole") from None
