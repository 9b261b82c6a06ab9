"""Follows faces through a video: which box is whose, and what was seen of each until now."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fer_jax.faces.detection import Box


@dataclasses.dataclass
class _Track:
  box: Box
  seen: float


class Tracker:
  """Numbers the faces of a video, and smooths what is said of each.

  A box belongs to the track whose last box it overlaps: pairs are made in order of their overlap, intersection over
  union, the largest first, down to `least_overlap`. Boxes that are left begin tracks, numbered from 0; no number is
  given twice.

  Args:
    half_life: of what was seen before, in seconds, in `smooth`; 0 forgets it at once.
    least_overlap: intersection over union, above 0, at most 1.
    patience: a track is forgotten when its face was not seen for longer, in seconds.

  Raises:
    ValueError: if an argument is out of its range.
  """

  def __init__(self, half_life: float = 0.5, least_overlap: float = 0.3, patience: float = 0.5):
    if half_life < 0 or patience < 0 or not 0 < least_overlap <= 1:
      raise ValueError(f"half_life={half_life}, least_overlap={least_overlap}, patience={patience}: out of range")
    self._half_life, self._least_overlap, self._patience = half_life, least_overlap, patience
    self._tracks: dict[int, _Track] = {}
    self._smoothed: dict[int, tuple[float, np.ndarray]] = {}
    self._next = 0

  def update(self, time: float, boxes: Sequence[Box]) -> list[int]:
    """Returns the number of each box's track.

    Args:
      time: of the frame, in seconds; where it goes back by more than `patience` (a video that begins anew), all tracks
        are forgotten.
      boxes: the faces in it.
    """
    self._tracks = {number: track for number, track in self._tracks.items() if abs(time - track.seen) <= self._patience}
    self._smoothed = {number: kept for number, kept in self._smoothed.items() if number in self._tracks}
    pairs = sorted(
      (-_overlap(track.box, box), number, place)
      for number, track in self._tracks.items()
      for place, box in enumerate(boxes)
    )
    number_at: dict[int, int] = {}
    for negative, number, place in pairs:
      if -negative >= self._least_overlap and place not in number_at and number not in number_at.values():
        number_at[place] = number
    for place, box in enumerate(boxes):
      if place not in number_at:
        number_at[place], self._next = self._next, self._next + 1
      self._tracks[number_at[place]] = _Track(box, time)
    return [number_at[place] for place in range(len(boxes))]

  def smooth(self, track: int, time: float, probability: np.ndarray) -> np.ndarray:
    """Returns the exponential moving average of what is said of a face; the first time, that itself.

    Over dt seconds the old average keeps a weight of 0.5 ** (dt / half_life): frames may be left out.

    Args:
      track: its number, of the last `update`.
      time: of the frame, in seconds; one before the last counts as no time passed, and changes nothing.
      probability: of each class, float [K].

    Returns:
      float [K], of the same sum and dtype.
    """
    if track not in self._smoothed or self._half_life == 0:
      self._smoothed[track] = (time, np.array(probability))
      return np.array(probability)
    before, old = self._smoothed[track]
    weight = 0.5 ** (max(0.0, time - before) / self._half_life)
    new = (weight * old + (1 - weight) * probability).astype(old.dtype)
    self._smoothed[track] = (time, new)
    return new.copy()


def _overlap(one: Box, other: Box) -> float:
  """Returns intersection over union."""
  width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
  height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
  common = max(width, 0.0) * max(height, 0.0)
  union = one.width * one.height + other.width * other.height - common
  return common / union if union > 0 else 0.0
