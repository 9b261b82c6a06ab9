"""A trained network loaded for inference: classifies cropped faces."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax.config.parsing import model_to_dict, parse, parse_model
from fer_jax.data.augment import standardize
from fer_jax.inference import model_file
from fer_jax.models.network import Network, Tree
from fer_jax.pretrained import run_folder
from fer_jax.runtime import xla
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path, read_json

# Default maximum batch size; more faces are classified in several calls.
LARGEST_BATCH = 64

# Name prefixes of datasets with drawn (synthetic) faces.
_DRAWN = ("synthetic_", "drawn_")

# How the training images were cropped -> margin of the crop: its side is (1 + margin) times that of the detector's box.
# "face": the dataset contains cropped faces. FER2013's were cropped with a similar detector: our detector's
# boxes in its images are 1.0 times the image side (median of 336 faces; interquartile range 0.97 to 1.06).
MARGINS = {"face": 0.0, "detector": 0.2, "fixed": 0.2, "none": 0.2}


@dataclasses.dataclass(frozen=True)
class TrainedModel:
  """A trained network with all metadata required to classify a face; K is its number of classes.

  Attributes:
    network: Network over named layers.
    params: Parameters with the best validation accuracy, {layer name: parameters}.
    stats: Batch statistics, {layer name: batch statistics}.
    class_names: Names of the K classes, in the order of the logits.
    shape: Shape (H, W, C) of the training images; C is 1 for grey and 3 for RGB.
    crop: Cropping of the training images: "face" for a dataset of cropped faces; for photographs "detector", "fixed" or
      "none" (not cropped).
    origin: Provenance of the network, as JSON values: config, dataset, step, accuracy on the test split, commit,
      versions.
    temperature: Divisor of the logits before the softmax (temperature scaling), fitted on the validation split.
    model_config: Model section of the config: name and hyper-parameters of the network.
    precision: Dtype of the activations, "float32" or "bfloat16".
  """

  network: Network
  params: Tree
  stats: Tree
  class_names: tuple[str, ...]
  shape: tuple[int, int, int]
  crop: str
  origin: Mapping[str, Any]
  temperature: float = 1.0
  model_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  precision: str = "float32"

  @property
  def caution(self) -> str:
    """Warning about using the network on photographs; "" if there is none."""
    dataset = str(self.origin.get("dataset"))
    if not dataset.startswith(_DRAWN):
      return ""
    return f"this network was trained on drawn faces ({dataset}): it does not recognise real ones"

  @property
  def margin(self) -> float:
    """Margin of a face crop around the detector's box, as a fraction of the box's side; the same as in training."""
    return MARGINS[self.crop]

  def logits(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Computes the logits of faces.

    Args:
      faces: Faces, uint8 array of shape [N, H, W, C] with (H, W, C) equal to `shape`.
      batch_size: Maximum number of faces per call of the network.

    Returns:
      Logits, float32 array of shape [N, K].

    Raises:
      ValueError: The faces have another shape or dtype.
    """
    self.check(faces)
    if not len(faces):
      return np.zeros((0, len(self.class_names)), np.float32)
    return in_batches(self._program, (faces,), batch_size)

  def probability(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH, views: str = "single") -> np.ndarray:
    """Computes the probability of each class: softmax(logits / temperature), averaged over the views.

    Args:
      faces: Faces, uint8 array of shape [N, H, W, C].
      batch_size: Maximum number of faces per call of the network.
      views: Test-time augmentation: "single" for none, or "flip" for the mean over each face and its mirror image.

    Returns:
      Probabilities, float32 array of shape [N, K].

    Raises:
      ValueError: The faces have another shape or dtype.
    """
    # Axis 2 is the width: reversing it mirrors each face horizontally.
    images = [faces, faces[:, :, ::-1]] if views == "flip" else [faces]
    probabilities = [softmax(self.logits(view, batch_size) / self.temperature) for view in images]
    return np.asarray(np.mean(probabilities, axis=0, dtype=np.float32))

  def check(self, faces: np.ndarray) -> None:
    """Raises ValueError unless faces are a uint8 array of shape [N, H, W, C] with (H, W, C) equal to `shape`."""
    if faces.dtype != np.uint8 or faces.shape[1:] != self.shape:
      expected = f"uint8 [N, {', '.join(map(str, self.shape))}]"
      raise ValueError(f"faces are {faces.dtype} {list(faces.shape)}: expected {expected}")

  @functools.cached_property
  def _program(self) -> Any:
    # Weights are arguments and not constants, so the programs compiled for several batch sizes share them.
    program = jax.jit(functools.partial(classify, self.network))
    variables = jax.device_put((self.params, self.stats))
    return lambda faces: program(*variables, faces)


def classify(network: Network, params: Tree, stats: Tree, faces: jax.Array) -> jax.Array:
  """Computes the logits of faces in evaluation mode; a pure function that can be compiled, exported or differentiated.

  Args:
    network: Network to apply.
    params: Parameters of all layers.
    stats: Batch statistics of all layers.
    faces: Faces, uint8 array of shape [B, H, W, C].

  Returns:
    Logits, float32 array of shape [B, K].
  """
  outputs, _ = network.apply(params, stats, standardize(faces))
  return outputs.logits


def in_batches(program: Callable[..., Any], arrays: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
  """Applies a compiled program to N rows, batch by batch.

  Each batch is padded with repeated rows to a power of 2 (at most `batch_size`), and the results of the padding are
  dropped. The program is therefore compiled for few shapes, whatever N is.

  Args:
    program: Function from arrays of shape [B, ...] to an array of shape [B, ...].
    arrays: Arguments of the program, each of shape [N, ...] with N > 0.
    batch_size: Maximum batch size B.

  Returns:
    Results of all rows, array of shape [N, ...].
  """
  count = len(arrays[0])
  results = []
  for start in range(0, count, batch_size):
    size = min(batch_size, count - start)
    # Next power of 2, but at most the batch size. np.resize pads by repeating the rows.
    rows = min(1 << (size - 1).bit_length(), batch_size)
    batch = [np.resize(array[start : start + size], (rows, *array.shape[1:])) for array in arrays]
    results.append(np.asarray(program(*batch))[:size])
  return np.concatenate(results)


def softmax(logits: np.ndarray) -> np.ndarray:
  """Computes probabilities, float32 [N, K], from logits [N, K]; in float64, on the host."""
  # Subtracting the maximum avoids overflow in exp.
  exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)


def load(path: str | os.PathLike[str] | None = None) -> TrainedModel:
  """Loads the trained network of a finished run.

  Args:
    path: Folder of the run; for a run with several replicas, the folder of one, such as workdir/replicas/fold_0.
      Alternatively a file written by `apps.export --format=safetensors`. None loads the network shipped with the
      package.

  Returns:
    Trained network with its metadata.

  Raises:
    UserError: No run has finished in the folder, it has several replicas, its files are damaged, or it was written by a
      version of fer_jax that did not record how the training images were cropped.
  """
  xla.prepare()
  if path is None:
    return _load_file(model_file.DEFAULT)
  path = local_path(path)
  return _load_file(path) if path.suffix == model_file.SUFFIX else _of_run(path)


def _load_file(path: Path) -> TrainedModel:
  params, stats, description = model_file.read(path)
  try:
    model_config, precision, origin = description["model"], description["precision"], description["origin"]
    names, (height, width, channels) = description["class_names"], description["shape"]
    return TrainedModel(
      network=parse_model(model_config).build(len(names), jnp.dtype(precision), None),
      params=params,
      stats=stats,
      class_names=tuple(names),
      shape=(height, width, channels),
      crop=description["crop"],
      temperature=description["temperature"],
      model_config=model_config,
      precision=precision,
      origin=origin,
    )
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{path}: header lacks {error}; expected a file written by apps.export --format=safetensors"
    ) from None


def _of_run(folder: Path) -> TrainedModel:
  params, stats, result = run_folder.read(folder)
  if result.input is None or result.input.crop not in MARGINS or len(result.input.shape) != 3:
    raise UserError(
      f"{folder / run_folder.RESULT}: does not record how its images were cropped (runs of older versions do not); "
      "expected the key `input`; train again"
    )
  height, width, channels = result.input.shape
  config = read_json(folder / "config.json")
  try:
    settings = parse(ConfigDict(config["config"]))
  except (KeyError, TypeError, ValueError):
    raise UserError(f"{folder / 'config.json'}: not the config.json of a run; copy the whole folder again") from None
  step = result.validation.step
  return TrainedModel(
    network=settings.model.build(len(result.class_names), jnp.dtype(settings.precision), None),
    params=params,
    stats=stats,
    class_names=result.class_names,
    shape=(height, width, channels),
    crop=result.input.crop,
    temperature=result.calibration.temperature if result.calibration is not None else 1.0,
    model_config=model_to_dict(settings.model),
    precision=settings.precision,
    origin={
      "config": result.config,
      "dataset": result.dataset,
      "accuracy": result.accuracy,
      "commit": result.commit,
      "versions": result.versions,
      # The checkpoint that was read: the best on validation, or the last without a validation split.
      "step": result.steps if step is None or step < 0 else step,
    },
  )
