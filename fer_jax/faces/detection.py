"""Boxes around faces, and what every face detector has in common.

A detector is any function from an image to boxes, so the detectors of this package can be replaced.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

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

The detectors of this package are thread-safe. An attribute `margin`, 0 without one, is the length that must be added to
the longer side of a box to get the side of the images of FER2013, as a share of that side.
"""


def largest_first(boxes: Iterable[Box]) -> list[Box]:
  """Sorts boxes by falling area, then by falling score and by position."""
  # All keys are needed: OpenCV's threads return equally large boxes in any order.
  return sorted(boxes, key=lambda box: (-box.width * box.height, -box.score, box.x, box.y))


def remove_covered(boxes: Iterable[Box]) -> list[Box]:
  """Removes boxes that an earlier box covers by more than _MAX_COVERED.

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
