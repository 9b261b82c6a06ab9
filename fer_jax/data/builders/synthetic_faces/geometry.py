"""Where the parts of a face lie: curves in face units, moved by the action units.

Face units: the face is about 2 high, x runs to the picture's right, y down, the origin lies between the eyes
and the nose. Every curve is float64 [P, 2]. A part that a face has twice is computed once with x pointing
outwards and mirrored by `side`, -1 for the picture's left and 1 for its right.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fer_jax.data.builders.synthetic_faces.identity import Identity

Curve = np.ndarray

EYE_HEIGHT = -0.08
SIDES = (-1, 1)
# From one end of a curve to the other.
_T = np.linspace(-1, 1, 17)
_DOME = 1 - _T**2
_PHASE = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_PHASE), np.sin(_PHASE)], axis=-1)


class Activation:
  """The intensities of the action units on one side of a face; `activation[12]` is 0 where AU 12 rests."""

  def __init__(self, action_units: Mapping[int, float], asymmetry: float, side: int):
    self._units = action_units
    self._share = 1 - max(0.0, -asymmetry * side)

  def __getitem__(self, unit: int) -> float:
    return self._share * self._units.get(unit, 0.0)


@dataclasses.dataclass(frozen=True)
class Eye:
  """One eye: its outline, the iris and pupil cut by the lids, both lids' edges, and the lines around it."""

  outline: Curve
  iris: Curve
  pupil: Curve
  upper_lid: Curve
  crease: Curve
  bag: Curve
  crow_feet: tuple[Curve, ...]


@dataclasses.dataclass(frozen=True)
class Mouth:
  """The mouth: both lips as one outline, the opening between them, the teeth, the line between the lips.

  `gap` is how far the lips stand apart where they do most.
  """

  lips: Curve
  opening: Curve
  upper_teeth: Curve
  lower_teeth: Curve
  line: Curve
  gap: float
  corners: tuple[Curve, Curve]


def _curve(x: np.ndarray, y: np.ndarray) -> Curve:
  # Several times faster than np.stack for curves this short.
  curve = np.empty((len(x), 2))
  curve[:, 0], curve[:, 1] = x, y
  return curve


def _mirrored(curve: Curve, side: int) -> Curve:
  return curve * (side, 1)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Curve:
  """Returns an ellipse around (x, y)."""
  return _CIRCLE * (half_width, half_height) + (x, y)


def head(identity: Identity, jaw_drop: float, start: float = 0.0, stop: float = 2 * np.pi, swell: float = 1.0) -> Curve:
  """Returns the head's outline between two angles; 0 is the picture's right, pi / 2 the chin.

  Args:
    identity: whose head.
    jaw_drop: the intensity of AU 26.
    start: the first angle, in radians.
    stop: the last angle.
    swell: scale of the upper half and of the width: above 1 for what lies on the head, such as hair.
  """
  phase = np.linspace(start, stop, 41)
  cos, sin = np.cos(phase), np.sin(phase)
  below = np.maximum(sin, 0)
  x = identity.width * swell * np.sign(cos) * np.abs(cos) ** 0.8 * (1 - identity.jaw * below**2)
  y = np.where(sin > 0, sin * (identity.chin + 0.13 * jaw_drop), 1.08 * swell * sin)
  return _curve(x, y)


def brow(identity: Identity, act: Activation, side: int) -> Curve:
  """Returns the outline of one brow; AUs 1, 2, 4 and 9 move it."""
  lowered = act[4] * (1 - 0.8 * act[1])
  inner = -0.14 * act[1] + 0.13 * lowered + 0.10 * act[9]
  middle = -0.05 * act[1] - 0.09 * act[2] + 0.09 * lowered + 0.05 * act[9] - identity.brow_arch
  outer = 0.03 * act[1] - 0.15 * act[2] * (1 - 0.6 * act[4]) + 0.02 * act[4] + 0.02 * act[6]
  centre = identity.eye_distance + 0.01
  x = centre + np.array([-0.19 - 0.055 * act[4], 0.02, 0.23])
  y = EYE_HEIGHT - identity.brow_height + np.array([inner, middle, outer + 0.02])
  along = (_T + 1) / 2
  middle_line = _curve(_quadratic(x, along), _quadratic(y, along))
  half = identity.brow_thickness * (1.15 - 0.75 * along**2)[:, None] * (0, 1)
  return _mirrored(np.concatenate([middle_line - half, (middle_line + half)[::-1]]), side)


def _quadratic(through: np.ndarray, along: np.ndarray) -> np.ndarray:
  """Interpolates three values, at 0, 1/2 and 1, by a parabola."""
  first, middle, last = through
  control = 2 * middle - (first + last) / 2
  return (1 - along) ** 2 * first + 2 * along * (1 - along) * control + along**2 * last


def eye(identity: Identity, act: Activation, side: int, gaze: tuple[float, float]) -> Eye:
  """Returns one eye; AUs 5, 6, 7 and 9 move its lids."""
  half_width = 0.165 * identity.eye_size
  opening = identity.eye_size * identity.eye_openness
  up = 0.085 * opening * max(0.25, 1 + 0.75 * act[5] - 0.25 * act[7] - 0.2 * act[6] - 0.35 * act[9])
  down = 0.06 * opening * (1 - 0.5 * act[7] - 0.85 * act[6] - 0.55 * act[9])
  x = identity.eye_distance + half_width * _T
  corner_line = EYE_HEIGHT - identity.eye_slant * _T
  upper = corner_line - up * _DOME**0.7
  lower = corner_line + down * _DOME

  def between_lids(curve: Curve) -> Curve:
    height = np.clip(curve[:, 1], np.interp(curve[:, 0], x, upper), np.interp(curve[:, 0], x, lower))
    return _mirrored(_curve(curve[:, 0], height), side)

  iris_x = identity.eye_distance + side * gaze[0] * half_width
  iris_y = EYE_HEIGHT - 0.012 + gaze[1] * half_width
  radius = 0.078 * identity.eye_size
  bag_drop = down + 0.05 - 0.02 * act[6]
  outer_x, outer_y = x[-1] + 0.03, corner_line[-1]
  feet = tuple(
    np.array([[outer_x, outer_y + 0.35 * rise], [outer_x + 0.11, outer_y + rise]]) for rise in (-0.07, 0.0, 0.07)
  )
  return Eye(
    outline=_mirrored(np.concatenate([_curve(x, upper), _curve(x, lower)[::-1]]), side),
    iris=between_lids(ellipse(iris_x, iris_y, radius, radius)),
    pupil=between_lids(ellipse(iris_x, iris_y, 0.5 * radius, 0.5 * radius)),
    upper_lid=_mirrored(_curve(x, upper), side),
    crease=_mirrored(_curve(x, upper - 0.035 + 0.02 * act[5])[2:-1], side),
    bag=_mirrored(_curve(x, corner_line + bag_drop * _DOME**0.5 + 0.01)[2:-1], side),
    crow_feet=tuple(_mirrored(foot, side) for foot in feet),
  )


def mouth(identity: Identity, left: Activation, right: Activation) -> Mouth:
  """Returns the mouth; AUs 9, 12, 15, 16, 20, 23 and 26 move it."""
  corners = [_corner(identity, act) for act in (left, right)]
  half_width, corner = (np.where(_T < 0, *values) for values in zip(*corners, strict=True))
  act = {unit: (left[unit] + right[unit]) / 2 for unit in (9, 12, 15, 16, 20, 23, 26)}
  x = half_width * _T
  # The corners carry the rest of the mouth along, the less the nearer to its middle.
  line = identity.mouth_height + 0.03 * act[26] + corner * np.abs(_T) ** 1.5
  fullness = 1 - np.abs(_T) ** (2 + 3 * act[20])
  rise = (0.07 * act[9] + 0.02 * act[12] + 0.01 * act[26]) * fullness
  drop = (0.27 * act[26] * (1 - 0.45 * act[20]) + 0.05 * act[16] + 0.03 * act[12]) * fullness
  lip = identity.lip * (1 - 0.6 * act[23]) * (1 - 0.25 * act[12])
  bow = 1 - 0.3 * np.exp(-((_T / 0.13) ** 2))
  upper, lower = line - rise, line + drop
  top = upper - lip * np.sqrt(_DOME) * bow
  bottom = lower + lip * (1.25 + 0.8 * act[16]) * np.sqrt(_DOME)
  teeth = np.minimum(0.055, rise + drop)
  lower_teeth = np.minimum(0.03 * act[16], rise + drop)
  return Mouth(
    lips=_ring(x, top, bottom),
    opening=_ring(x, upper, lower),
    upper_teeth=_ring(x * 0.95, upper, upper + teeth),
    lower_teeth=_ring(x * 0.9, lower - lower_teeth, lower),
    line=_curve(x, line),
    gap=float(np.max(rise + drop)),
    corners=(_curve(x, line)[0], _curve(x, line)[-1]),
  )


def _corner(identity: Identity, act: Activation) -> tuple[float, float]:
  """Returns a mouth corner's distance from the middle and how far it stands below the middle."""
  wider = 0.26 * act[12] + 0.42 * act[20] - 0.22 * act[23] - 0.14 * act[26] + 0.04 * act[15]
  lower = -0.15 * act[12] + 0.14 * act[15] + 0.03 * act[20] + 0.06 * act[26]
  return identity.mouth_width * (1 + wider), lower


def _ring(x: np.ndarray, above: np.ndarray, below: np.ndarray) -> Curve:
  return np.concatenate([_curve(x, above), _curve(x, below)[::-1]])


def nose_wing(identity: Identity, act: Activation, side: int) -> Curve:
  """Returns the outline of one nostril wing as an open curve; AU 9 lifts it."""
  y = 0.30 * identity.nose_length - 0.045 * act[9]
  width = identity.nose_width * (1 + 0.15 * act[9])
  shape = np.array([[0.75, -0.09], [1.0, -0.05], [1.05, 0.0], [0.85, 0.03], [0.55, 0.02]])
  return _mirrored(shape * (width, 1) + (0, y), side)


def nasolabial_fold(identity: Identity, act: Activation, side: int, corner: Curve) -> Curve:
  """Returns the line from the nostril wing around the mouth corner, which AUs 9 and 12 deepen."""
  start_x = identity.nose_width * 1.25
  start_y = 0.24 * identity.nose_length - 0.05 * act[9]
  end_x = abs(corner[0]) + 0.06 + 0.02 * act[12]
  along = (_T[::2] + 1) / 2
  bulge = (0.05 + 0.05 * act[12]) * _DOME[::2]
  x = start_x + (end_x - start_x) * along + bulge
  return _mirrored(_curve(x, start_y + (corner[1] + 0.03 - start_y) * along), side)
