"""Face detection with Haar cascades, which OpenCV contains."""

import math
import pathlib
import threading

import cv2
import numpy as np

from fer_jax.faces.detection import Box, largest_first, remove_covered

_FRONTAL = "haarcascade_frontalface_alt2.xml"
_PROFILE = "haarcascade_profileface.xml"
_CASCADES = threading.local()


class HaarDetector:
  """Detects faces with the Haar cascades of OpenCV.

  Profiles from either side are searched only if there is no frontal face. Of two overlapping boxes, the larger one is
  kept; of two equally large boxes, the one with the higher score.

  The defaults are for photographs of one person, which training crops. `photograph_detector` and `video_detector` are
  faster.

  Viola and Jones, "Robust real-time face detection", IJCV 2004, https://doi.org/10.1023/B:VISI.0000013087.49260.fb.

  Args:
    smallest_face: Side of the smallest detected face, as a share of the image's shorter side.
    longest_side: Maximum side in pixels at which an image is searched; larger images are reduced to it. Boxes are in
      pixels of the original image.
    shorter_side: Maximum length in pixels of the shorter side at which an image is searched; None for no limit.
    scale_factor: Ratio of the face sizes of consecutive passes, above 1; with a larger factor there are fewer passes,
      and more faces are missed.
    min_neighbors: Number of overlapping detections that make a face; fewer give more faces and more errors.
    profiles: Whether to search for profiles if there is no frontal face.
    smallest_profile: Side of the smallest detected profile; None for that of `smallest_face`.
  """

  margin = 0.0  # measured, see docs/faces.md

  def __init__(
    self,
    smallest_face: float = 0.2,
    longest_side: int = 480,
    shorter_side: int | None = None,
    scale_factor: float = 1.1,
    min_neighbors: int = 3,
    profiles: bool = True,
    smallest_profile: float | None = None,
  ):
    self._longest_side, self._shorter_side = longest_side, shorter_side
    self._scale_factor, self._min_neighbors, self._profiles = scale_factor, min_neighbors, profiles
    self._smallest = {_FRONTAL: smallest_face, _PROFILE: smallest_profile or smallest_face}

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in an image, largest first.

    Args:
      image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    scale = min(1.0, self._longest_side / max(grey.shape), (self._shorter_side or math.inf) / min(grey.shape))
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
    return remove_covered(
      largest_first(
        Box(box.x / scale, box.y / scale, box.width / scale, box.height / scale, box.score) for box in boxes
      )
    )

  def _find(self, cascade: str, grey: np.ndarray) -> list[Box]:
    """Returns the boxes that a cascade finds in a grey image, uint8 [h, w], in its pixels."""
    side = max(1, round(self._smallest[cascade] * min(grey.shape)))
    rectangles, _, scores = _cascade(cascade).detectMultiScale3(
      grey,
      scaleFactor=self._scale_factor,
      minNeighbors=self._min_neighbors,
      minSize=(side, side),
      outputRejectLevels=True,
    )
    found = zip(rectangles, np.ravel(scores), strict=True)
    return [
      Box(float(x), float(y), float(width), float(height), float(score)) for (x, y, width, height), score in found
    ]


def photograph_detector(smallest_face: float = 0.1) -> HaarDetector:
  """Returns the detector for photographs with faces of at least a tenth of the shorter side, and profiles of a fifth.

  It finds as many faces as `HaarDetector(smallest_face=0.1)` in a third of the time; docs/faces.md has the measurement.

  Args:
    smallest_face: Side of the smallest detected face, as a share of the image's shorter side.
  """
  # At this size, the smallest face has the 20 pixels that the cascade needs. The size is at least that for faces of
  # 0.3: with fewer pixels, the boxes of large faces would be coarse.
  shorter_side = max(67, round(20 / smallest_face))
  return HaarDetector(
    smallest_face, 640, shorter_side, scale_factor=1.2, min_neighbors=2, smallest_profile=min(1.0, 2 * smallest_face)
  )


def video_detector() -> HaarDetector:
  """Returns a detector fast enough for a camera: frontal faces of at least 18 % of the image's shorter side."""
  return HaarDetector(smallest_face=0.18, longest_side=320, profiles=False)


def _cascade(name: str) -> cv2.CascadeClassifier:
  """Returns the cascade of the current thread: a cascade stores intermediate results and is not thread-safe."""
  cascade = getattr(_CASCADES, name, None)
  if cascade is None:
    cascade = cv2.CascadeClassifier(str(pathlib.Path(cv2.__file__).parent / "data" / name))
    setattr(_CASCADES, name, cascade)
  return cascade
