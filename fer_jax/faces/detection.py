"""Detects faces. A detector is any function from an image to boxes, so the classes here can be replaced."""

import os
import pathlib
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.runtime.errors import UserError

_FRONTAL = "haarcascade_frontalface_alt2.xml"
_PROFILE = "haarcascade_profileface.xml"
_YUNET = "face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo"
_CASCADES = threading.local()
_MAX_COVERED = 1 / 3  # maximum share of a box that a larger one may cover


class Box(NamedTuple):
  """Box around a face in an image.

  Attributes:
    x: Left edge in pixels.
    y: Top edge in pixels.
    width: Width in pixels.
    height: Height in pixels.
    score: Confidence of the detector; scores of different detectors are not comparable.
  """

  x: float
  y: float
  width: float
  height: float
  score: float


Detector = Callable[[np.ndarray], list[Box]]
"""Function from an image, uint8 [H, W] grey or [H, W, 3] RGB, to the boxes of its faces, largest first; [] for none.

The detectors in this file are thread-safe.
"""


class HaarDetector:
  """Detects faces with the Haar cascades of OpenCV.

  Profiles from either side are searched only if there is no frontal face. Of two overlapping boxes, the larger one is
  kept; of two equally large boxes, the one with the higher score.

  The defaults are for photographs. For video, HaarDetector(longest_side=320, scale_factor=1.2, profiles=False) takes
  about 11 ms on one core for an image of 640x480, with or without a face. With the defaults, it takes 20 ms, and 70 ms
  if there is no face.

  Viola and Jones, "Robust real-time face detection", IJCV 2004, https://doi.org/10.1023/B:VISI.0000013087.49260.fb.

  Args:
    smallest_face: Side of the smallest detected face, as a share of the image's shorter side.
    longest_side: Maximum side in pixels at which an image is searched; larger images are reduced to it. Boxes are in
      pixels of the original image.
    scale_factor: Ratio of the face sizes of consecutive passes, above 1; with a larger factor there are fewer passes,
      and more faces are missed.
    profiles: Whether to search for profiles if there is no frontal face.
  """

  def __init__(
    self, smallest_face: float = 0.2, longest_side: int = 480, scale_factor: float = 1.1, profiles: bool = True
  ):
    self._smallest_face, self._longest_side = smallest_face, longest_side
    self._scale_factor, self._profiles = scale_factor, profiles

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in an image, largest first.

    Args:
      image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    scale = min(1.0, self._longest_side / max(grey.shape))
    if scale < 1:
      # At least one pixel per side, for very narrow images.
      across, down = (max(scale, 1 / side) for side in grey.shape[::-1])
      grey = cv2.resize(grey, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
    boxes = self._find(_FRONTAL, grey)
    if not boxes and self._profiles:
      width = grey.shape[1]
      # The cascade detects profiles of one side only: search the mirrored image for the other.
      mirrored = self._find(_PROFILE, np.ascontiguousarray(grey[:, ::-1]))
      boxes = self._find(_PROFILE, grey) + [box._replace(x=width - box.x - box.width) for box in mirrored]
    # Back to pixels of the original image.
    return _remove_covered(
      _largest_first(
        Box(box.x / scale, box.y / scale, box.width / scale, box.height / scale, box.score) for box in boxes
      )
    )

  def _find(self, cascade: str, grey: np.ndarray) -> list[Box]:
    """Returns the boxes that a cascade finds in a grey image, uint8 [h, w], in its pixels."""
    side = max(1, round(self._smallest_face * min(grey.shape)))
    rectangles, _, scores = _cascade(cascade).detectMultiScale3(
      grey, scaleFactor=self._scale_factor, minNeighbors=3, minSize=(side, side), outputRejectLevels=True
    )
    found = zip(rectangles, np.ravel(scores), strict=True)
    return [
      Box(float(x), float(y), float(width), float(height), float(score)) for (x, y, width, height), score in found
    ]


class YuNetDetector:
  """Detects faces with YuNet, a small network that also finds rotated faces; OpenCV runs it from a model file.

  Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", MIR 2023, https://doi.org/10.1007/s11633-023-1423-y.
  The model is face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo.

  Args:
    model: Path of the model file.
    threshold: Minimum score, 0 to 1; faces with a lower score are excluded.

  Raises:
    UserError: If the file does not exist or is not a model.
  """

  def __init__(self, model: str | pathlib.Path, threshold: float = 0.6):
    path = pathlib.Path(os.path.expanduser(model))
    expected = f"expected {_YUNET}"
    if not path.is_file():
      raise UserError(f"YuNet model {path} does not exist; {expected}")
    self._lock = threading.Lock()  # The input size is state of the network: set it and detect without interruption.
    try:
      self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
    except cv2.error:
      raise UserError(f"{path} is not a model that OpenCV can read; {expected}: download it again") from None

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in an image, largest first.

    Args:
      image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
    """
    colour = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.ndim == 3 else cv2.COLOR_GRAY2BGR)
    with self._lock:
      self._network.setInputSize((image.shape[1], image.shape[0]))
      _, faces = self._network.detect(colour)
    # float32 [faces, 15]: x, y, width, height, five landmarks (x, y), score
    rows = [] if faces is None else faces.tolist()
    return _largest_first(Box(x, y, width, height, score) for x, y, width, height, *_, score in rows)


def _largest_first(boxes: Iterable[Box]) -> list[Box]:
  """Sorts boxes by falling area, then by falling score and by position."""
  # All keys are needed: OpenCV's threads return equally large boxes in any order.
  return sorted(boxes, key=lambda box: (-box.width * box.height, -box.score, box.x, box.y))


def _remove_covered(boxes: Iterable[Box]) -> list[Box]:
  """Removes boxes that an earlier box covers by more than _MOST_COVERED.

  Examples are a profile that is found from both sides, and a mouth that is detected as a face.
  """
  remaining: list[Box] = []
  for box in boxes:
    if all(_covered_share(box, other) <= _MAX_COVERED for other in remaining):
      remaining.append(box)
  return remaining


def _covered_share(box: Box, other: Box) -> float:
  """Returns the share of a box that is covered by another one."""
  # Width and height of the intersection; negative if the boxes are disjoint.
  width = min(box.x + box.width, other.x + other.width) - max(box.x, other.x)
  height = min(box.y + box.height, other.y + other.height) - max(box.y, other.y)
  return max(width, 0.0) * max(height, 0.0) / (box.width * box.height)


def _cascade(name: str) -> cv2.CascadeClassifier:
  """Returns the cascade of the current thread: a cascade stores intermediate results and is not thread-safe."""
  cascade = getattr(_CASCADES, name, None)
  if cascade is None:
    cascade = cv2.CascadeClassifier(str(pathlib.Path(cv2.__file__).parent / "data" / name))
    setattr(_CASCADES, name, cascade)
  return cascade
