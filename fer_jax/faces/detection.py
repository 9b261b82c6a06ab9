"""Finds faces. A detector is any function from a picture to boxes; the others here may take its place."""

import os
import pathlib
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.errors import UserError

_FRONTAL = "haarcascade_frontalface_alt2.xml"
_PROFILE = "haarcascade_profileface.xml"
_YUNET = "face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo"
_CASCADES = threading.local()
_MOST_COVERED = 1 / 3  # of a face, by another one before it


class Box(NamedTuple):
  """A face in a picture: its upper left corner and its size in pixels, and how sure the detector is.

  Scores of one detector can be compared with each other, not with another's.
  """

  x: float
  y: float
  width: float
  height: float
  score: float


Detector = Callable[[np.ndarray], list[Box]]
"""From a picture, uint8 [H, W] grey or [H, W, 3] RGB, to the faces in it, the largest first; [] where there is none.

Those here may be called by several threads at the same time.
"""


class HaarDetector:
  """Finds faces with the cascades that OpenCV brings: seen from the front; if there is none, from either side.

  Of two that lie on each other, the larger one is taken; of equally large ones, that of the higher score.

  The defaults are for photographs. For video, a picture of 640x480 takes about 11 ms on one core, with a face or
  without, by HaarDetector(longest_side=320, scale_factor=1.2, profiles=False); by the defaults 20 ms, and 70 ms where
  there is no face.

  Viola and Jones, "Robust real-time face detection", IJCV 2004, https://doi.org/10.1023/B:VISI.0000013087.49260.fb.

  Args:
    smallest_face: side of the smallest face looked for, as a share of the picture's shorter side.
    longest_side: larger pictures are looked at in this size, in pixels; the boxes are in the picture's own.
    scale_factor: how much larger the faces looked for are in each pass than in the one before, above 1: with a larger
      step there are fewer passes, and more faces are missed.
    profiles: whether faces seen from the side are looked for where there is none from the front.
  """

  def __init__(
    self, smallest_face: float = 0.2, longest_side: int = 480, scale_factor: float = 1.1, profiles: bool = True
  ):
    self._smallest_face, self._longest_side = smallest_face, longest_side
    self._scale_factor, self._profiles = scale_factor, profiles

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in a picture, the largest first."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    scale = min(1.0, self._longest_side / max(grey.shape))
    if scale < 1:
      across, down = (max(scale, 1 / side) for side in grey.shape[::-1])  # of something thin, a pixel is left
      grey = cv2.resize(grey, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
    boxes = self._find(_FRONTAL, grey)
    if not boxes and self._profiles:
      width = grey.shape[1]
      mirrored = self._find(_PROFILE, np.ascontiguousarray(grey[:, ::-1]))
      boxes = self._find(_PROFILE, grey) + [box._replace(x=width - box.x - box.width) for box in mirrored]
    return _apart(
      _largest_first(
        Box(box.x / scale, box.y / scale, box.width / scale, box.height / scale, box.score) for box in boxes
      )
    )

  def _find(self, cascade: str, grey: np.ndarray) -> list[Box]:
    side = max(1, round(self._smallest_face * min(grey.shape)))
    places, _, scores = _cascade(cascade).detectMultiScale3(
      grey, scaleFactor=self._scale_factor, minNeighbors=3, minSize=(side, side), outputRejectLevels=True
    )
    found = zip(places, np.ravel(scores), strict=True)
    return [
      Box(float(x), float(y), float(width), float(height), float(score)) for (x, y, width, height), score in found
    ]


class YuNetDetector:
  """Finds faces with YuNet, a small network that also finds turned ones; OpenCV runs it, its model is a file.

  Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", MIR 2023,
  https://doi.org/10.1007/s11633-023-1423-y. The model is face_detection_yunet_2023mar.onnx of
  https://github.com/opencv/opencv_zoo.

  Args:
    model: path of the model.
    threshold: faces with a lower score, 0 to 1, are left out.

  Raises:
    UserError: if the file is absent or no model.
  """

  def __init__(self, model: str | pathlib.Path, threshold: float = 0.6):
    path = pathlib.Path(os.path.expanduser(model))
    where = f"expected {_YUNET}"
    if not path.is_file():
      raise UserError(f"YuNet's model {path} does not exist; {where}")
    self._lock = threading.Lock()  # The network is told each picture's size before it looks at it.
    try:
      self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
    except cv2.error:
      raise UserError(f"{path} is no model that OpenCV can read; {where}: download it again") from None

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in a picture, the largest first."""
    colour = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.ndim == 3 else cv2.COLOR_GRAY2BGR)
    with self._lock:
      self._network.setInputSize((image.shape[1], image.shape[0]))
      _, faces = self._network.detect(colour)
    # Each has x, y, width, height, five landmarks as pairs, and the score.
    rows = [] if faces is None else faces.tolist()
    return _largest_first(Box(x, y, width, height, score) for x, y, width, height, *_, score in rows)


def _largest_first(boxes: Iterable[Box]) -> list[Box]:
  # OpenCV's threads find equally large ones in any order.
  return sorted(boxes, key=lambda box: (-box.width * box.height, -box.score, box.x, box.y))


def _apart(boxes: Iterable[Box]) -> list[Box]:
  """Leaves out boxes that lie on an earlier one: a profile found from either side, a mouth taken for a face."""
  kept: list[Box] = []
  for box in boxes:
    if all(_covered(box, other) <= _MOST_COVERED for other in kept):
      kept.append(box)
  return kept


def _covered(box: Box, other: Box) -> float:
  """Returns the share of a box that lies on another one."""
  width = min(box.x + box.width, other.x + other.width) - max(box.x, other.x)
  height = min(box.y + box.height, other.y + other.height) - max(box.y, other.y)
  return max(width, 0.0) * max(height, 0.0) / (box.width * box.height)


def _cascade(name: str) -> cv2.CascadeClassifier:
  """Returns the thread's own cascade: one keeps what it works on in itself."""
  cascade = getattr(_CASCADES, name, None)
  if cascade is None:
    cascade = cv2.CascadeClassifier(str(pathlib.Path(cv2.__file__).parent / "data" / name))
    setattr(_CASCADES, name, cascade)
  return cascade
