"""Tracks faces through a video: assigns boxes to tracks and smooths the predictions of each track."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from fer_jax.faces.detection import Box

_THUMBNAIL_SIDE = 16
_FLAT = 2.0  # standard deviation of the grey values of a thumbnail that shows nothing, such as a black frame
_CUT_CORRELATION = 0.5  # minimum correlation of two thumbnails of one shot


@dataclasses.dataclass
class _Track:
  """Last box of a track and the time in seconds of its last detection."""

  box: Box
  last_seen: float


class Tracker:
  """Numbers the faces of a video and smooths their predictions.

  A box is assigned to the track whose last box it overlaps. Pairs are matched greedily, in falling order of their
  overlap (intersection over union), down to `least_overlap`. Unmatched boxes start new tracks. After a cut, all boxes
  do. Tracks are numbered from 0, and no number is used twice.

  Args:
    half_life: Half-life of earlier predictions in `smooth`, in seconds; 0 disables smoothing.
    least_overlap: Minimum intersection over union of a match, above 0 and at most 1.
    patience: Maximum time in seconds without a detection before a track is removed.

  Raises:
    ValueError: If an argument is out of range.
  """

  def __init__(self, half_life: float = 0.5, least_overlap: float = 0.3, patience: float = 0.5):
    if half_life < 0 or patience < 0 or not 0 < least_overlap <= 1:
      raise ValueError(
        f"half_life={half_life}, least_overlap={least_overlap}, patience={patience}: expected half_life and patience "
        "of 0 or more, and least_overlap above 0 and at most 1"
      )
    self._half_life, self._least_overlap, self._patience = half_life, least_overlap, patience
    self._tracks: dict[int, _Track] = {}
    self._smoothed: dict[int, tuple[float, np.ndarray]] = {}
    self._thumbnail: np.ndarray | None = None  # of the newest frame that shows something
    self._next = 0

  def update(self, time: float, boxes: Sequence[Box], thumbnail: np.ndarray | None = None) -> list[int]:
    """Returns the track number of each box.

    Args:
      time: Time of the frame in seconds; a jump back by more than `patience` (a video that restarts) removes all
        tracks.
      boxes: Boxes of the faces in the frame.
      thumbnail: Result of `thumbnail` for the frame; a cut is a low correlation with that of the last frame. None
        disables the search for cuts.
    """
    if self._is_cut(thumbnail):
      self._tracks.clear()
    self._tracks = {
      number: track for number, track in self._tracks.items() if abs(time - track.last_seen) <= self._patience
    }
    self._smoothed = {number: state for number, state in self._smoothed.items() if number in self._tracks}
    # Negative overlap: the largest first; ties in the order of track and box.
    pairs = sorted(
      (-_overlap(track.box, box), number, index)
      for number, track in self._tracks.items()
      for index, box in enumerate(boxes)
    )
    numbers: dict[int, int] = {}
    for negative, number, index in pairs:
      if -negative >= self._least_overlap and index not in numbers and number not in numbers.values():
        numbers[index] = number
    for index, box in enumerate(boxes):
      if index not in numbers:
        numbers[index], self._next = self._next, self._next + 1
      self._tracks[numbers[index]] = _Track(box, time)
    return [numbers[index] for index in range(len(boxes))]

  def _is_cut(self, thumbnail: np.ndarray | None) -> bool:
    """Returns whether the image has changed completely; brightness and contrast alone may change."""
    if thumbnail is None or thumbnail.std() < _FLAT:
      return False
    previous, self._thumbnail = self._thumbnail, thumbnail
    if previous is None:
      return False
    return bool(np.corrcoef(previous.ravel(), thumbnail.ravel())[0, 1] < _CUT_CORRELATION)

  def smooth(self, track: int, time: float, probability: np.ndarray) -> np.ndarray:
    """Returns the exponential moving average of a face's predictions; the first call returns its argument.

    Over dt seconds, the weight of the old average is 0.5 ** (dt / half_life), so frames may be skipped.

    Args:
      track: Track number from the last `update`.
      time: Time of the frame in seconds; an earlier time than in the last call leaves the average unchanged.
      probability: Probability of each class, float [K].

    Returns:
      Smoothed probability, float [K], with the sum and dtype of the argument.
    """
    if track not in self._smoothed or self._half_life == 0:
      self._smoothed[track] = (time, np.array(probability))
      return np.array(probability)
    previous_time, previous = self._smoothed[track]
    weight = 0.5 ** (max(0.0, time - previous_time) / self._half_life)
    new = (weight * previous + (1 - weight) * probability).astype(previous.dtype)
    self._smoothed[track] = (time, new)
    # A copy, because the caller may modify it.
    return new.copy()


def thumbnail(image: np.ndarray) -> np.ndarray:
  """Returns a small grey copy of an image, float32 [16, 16], for the search for cuts.

  Args:
    image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
  """
  small = cv2.resize(image, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
  return (small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)).astype(np.float32)


def _overlap(one: Box, other: Box) -> float:
  """Returns the intersection over union of two boxes."""
  width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
  height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
  common = max(width, 0.0) * max(height, 0.0)
  union = one.width * one.height + other.width * other.height - common
  return common / union if union > 0 else 0.0
