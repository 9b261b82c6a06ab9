"""Feature maps of a run's first, middle and last hidden layers, for the same faces in every run.

Like `explanations`, it loads networks; a page without feature maps is written without JAX.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from fer_jax.data.augment import standardize
from fer_jax.inference import trained_model
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import RunFiles

FACES = 3
CHANNELS = 6
_SIDE = 48  # pixels of a drawn map
_GAP = 4


class LayerMaps(NamedTuple):
  """Drawn feature maps of one layer.

  Attributes:
    layer: Name of the layer.
    depth: "first", "middle" or "last" among the hidden layers of the network.
    shape: Shape (h, w, C) of the feature maps of one face.
    image: One row per face and one column per channel, uint8 [H, W, 1].
  """

  layer: str
  depth: str
  shape: tuple[int, int, int]
  image: np.ndarray


class Features(NamedTuple):
  """Drawn feature maps of several runs.

  Attributes:
    faces: Faces that all networks received, uint8 [F, H, W, C].
    runs: Maps of three layers of each run, the run of the page first; fewer if a network has fewer feature maps.
  """

  faces: np.ndarray
  runs: tuple[tuple[LayerMaps, ...], ...]


def draw_features(run: RunFiles, others: Sequence[RunFiles]) -> Features:
  """Draws feature maps of finished runs, all for the same training images of the first one.

  Args:
    run: Run whose page is written.
    others: Runs to compare with.

  Raises:
    UserError: A run has not finished, has several replicas, lacks files or has another image shape than the first run.
  """
  predictions = run.predictions
  if predictions is None or predictions.sample_image is None or not len(predictions.sample_image):
    raise UserError(
      f"{run.workdir / 'predictions.npz'}: expected sample images, which --features needs; train again, or leave out "
      "--features"
    )
  faces = predictions.sample_image[:FACES]
  return Features(faces, tuple(_layers_of(each, faces) for each in (run, *others)))


def _layers_of(run: RunFiles, faces: np.ndarray) -> tuple[LayerMaps, ...]:
  model = trained_model.load(run.workdir)
  if model.shape != faces.shape[1:]:
    raise UserError(
      f"{run.workdir}: its images have shape {model.shape}, expected {faces.shape[1:]} as in the first run; leave the "
      "run out of --compare"
    )
  network = model.network
  taps = jax.jit(lambda faces: network.apply(model.params, model.stats, standardize(faces), taps=True)[0].taps)(faces)
  maps = [(name, np.asarray(tap)) for name, tap in zip(network.hidden, taps, strict=True) if tap.ndim == 4]
  chosen = {0: "first", len(maps) // 2: "middle", len(maps) - 1: "last"} if maps else {}
  return tuple(
    LayerMaps(maps[i][0], depth, maps[i][1].shape[1:], _draw(maps[i][1].astype(np.float32)))
    for i, depth in chosen.items()
  )


def _draw(maps: np.ndarray) -> np.ndarray:
  """Returns an image of feature maps [F, h, w, C]: those channels that vary most, each scaled to its own range."""
  # [C]
  deviation = maps.std(axis=(0, 1, 2))
  channels = np.sort(np.argsort(-deviation, kind="stable")[:CHANNELS])
  low, high = (f(maps, axis=(0, 1, 2), keepdims=True) for f in (np.min, np.max))
  grey = np.rint(255 * (maps - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
  rows = [
    np.concatenate(
      [_padded(cv2.resize(one[..., c], (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)) for c in channels], 1
    )
    for one in grey
  ]
  return np.concatenate(rows, axis=0)[:-_GAP, :-_GAP, None]


def _padded(image: np.ndarray) -> np.ndarray:
  return np.pad(image, ((0, _GAP), (0, _GAP)), constant_values=255)
