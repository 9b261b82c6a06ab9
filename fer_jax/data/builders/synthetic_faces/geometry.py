"""Geometry of the parts of a face: curves in face units, displaced by the action units.

In face units, the face is about 2 units high, x points to the right of the image and y down, and the origin is between
the eyes and the nose. Every curve is a float64 array of shape [P, 2]. A part that occurs twice in a face is computed
with x pointing outwards and then mirrored by `side`: -1 for the left of the image, 1 for the right.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fer_jax.data.builders.synthetic_faces.identity import Identity

Curve = np.ndarray

EYE_HEIGHT = -0.08
SIDES = (-1, 1)
# Parameter along a curve, from one end to the other.
_POSITIONS = np.linspace(-1, 1, 17)
_ARCH = 1 - _POSITIONS**2
_PHASE = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_PHASE), np.sin(_PHASE)], axis=-1)


class Activation:
  """Intensities of the action units on one side of a face; `activation[12]` is 0 if AU 12 is not active.

  Args:
    action_units: Intensity in [0, 1] of each active unit, for the whole face.
    asymmetry: Imbalance of the expression, -1 to 1; see `Shot.asymmetry`.
    side: Side of the face, one of SIDES.
  """

  def __init__(self, action_units: Mapping[int, float], asymmetry: float, side: int):
    self._units = action_units
    self._share = 1 - max(0.0, -asymmetry * side)

  def __getitem__(self, unit: int) -> float:
    return self._share * self._units.get(unit, 0.0)


@dataclasses.dataclass(frozen=True)
class Eye:
  """Curves of one eye.

  Attributes:
    outline: Closed outline of the opening between the lids.
    iris: Closed outline of the iris, clipped by the lids.
    pupil: Closed outline of the pupil, clipped by the lids.
    upper_lid: Edge of the upper lid.
    crease: Crease above the upper lid.
    bag: Line below the eye.
    crow_feet: Lines at the outer eye corner.
  """

  outline: Curve
  iris: Curve
  pupil: Curve
  upper_lid: Curve
  crease: Curve
  bag: Curve
  crow_feet: tuple[Curve, ...]


@dataclasses.dataclass(frozen=True)
class Mouth:
  """Curves of the mouth.

  Attributes:
    lips: Closed outline of both lips together.
    opening: Closed outline of the opening between the lips.
    upper_teeth: Closed outline of the visible upper teeth.
    lower_teeth: Closed outline of the visible lower teeth.
    line: Line between the closed lips.
    gap: Maximum vertical distance between the lips.
    corners: Left and right corner, each a point of shape [2].
  """

  lips: Curve
  opening: Curve
  upper_teeth: Curve
  lower_teeth: Curve
  line: Curve
  gap: float
  corners: tuple[Curve, Curve]


def _curve(x: np.ndarray, y: np.ndarray) -> Curve:
  # [P], [P] -> [P, 2]; several times faster than np.stack for curves this short.
  curve = np.empty((len(x), 2))
  curve[:, 0], curve[:, 1] = x, y
  return curve


def _mirrored(curve: Curve, side: int) -> Curve:
  return curve * (side, 1)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Curve:
  """Returns an ellipse with centre (x, y), float64 [24, 2]."""
  return _CIRCLE * (half_width, half_height) + (x, y)


def head(identity: Identity, jaw_drop: float, start: float = 0.0, stop: float = 2 * np.pi, swell: float = 1.0) -> Curve:
  """Returns the outline of the head between two angles, float64 [41, 2].

  Angle 0 is the right of the image and pi / 2 is the chin.

  Args:
    identity: Face parameters of the person.
    jaw_drop: Intensity of AU 26.
    start: First angle in radians.
    stop: Last angle in radians.
    swell: Scale of the upper half and of the width; above 1 for parts on top of the head, such as hair.
  """
  phase = np.linspace(start, stop, 41)
  cos, sin = np.cos(phase), np.sin(phase)
  below = np.maximum(sin, 0)
  # A superellipse whose lower half narrows towards the chin.
  x = identity.width * swell * np.sign(cos) * np.abs(cos) ** 0.8 * (1 - identity.jaw * below**2)
  y = np.where(sin > 0, sin * (identity.chin + 0.13 * jaw_drop), 1.08 * swell * sin)
  return _curve(x, y)


def brow(identity: Identity, act: Activation, side: int) -> Curve:
  """Returns the closed outline of one brow, which depends on AUs 1, 2, 4, 6 and 9."""
  # Vertical displacement of three points of the brow (y points down, so negative values raise it).
  lowered = act[4] * (1 - 0.8 * act[1])
  inner = -0.14 * act[1] + 0.13 * lowered + 0.10 * act[9]
  middle = -0.05 * act[1] - 0.09 * act[2] + 0.09 * lowered + 0.05 * act[9] - identity.brow_arch
  outer = 0.03 * act[1] - 0.15 * act[2] * (1 - 0.6 * act[4]) + 0.02 * act[4] + 0.02 * act[6]
  centre = identity.eye_distance + 0.01
  x = centre + np.array([-0.19 - 0.055 * act[4], 0.02, 0.23])
  y = EYE_HEIGHT - identity.brow_height + np.array([inner, middle, outer + 0.02])
  positions = (_POSITIONS + 1) / 2
  middle_line = _curve(_quadratic(x, positions), _quadratic(y, positions))
  # [17, 2]: half the thickness in the y direction, decreasing outwards.
  half_thickness = identity.brow_thickness * (1.15 - 0.75 * positions**2)[:, None] * (0, 1)
  return _mirrored(np.concatenate([middle_line - half_thickness, (middle_line + half_thickness)[::-1]]), side)


def _quadratic(through: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Interpolates the values at 0, 1/2 and 1 with a parabola."""
  first, middle, last = through
  # Control point of the quadratic Bezier curve through the three values.
  control = 2 * middle - (first + last) / 2
  return (1 - positions) ** 2 * first + 2 * positions * (1 - positions) * control + positions**2 * last


def eye(identity: Identity, act: Activation, side: int, gaze: tuple[float, float]) -> Eye:
  """Returns the curves of one eye, whose lids depend on AUs 5, 6, 7 and 9.

  Args:
    identity: Face parameters of the person.
    act: Intensities of the action units on this side.
    side: Side of the face, one of SIDES.
    gaze: Offset (x, y) of the iris from the middle of the eye, in half-widths of the eye.
  """
  half_width = 0.165 * identity.eye_size
  opening = identity.eye_size * identity.eye_openness
  # Heights of the opening above and below the line through the eye corners.
  up = 0.085 * opening * max(0.25, 1 + 0.75 * act[5] - 0.25 * act[7] - 0.2 * act[6] - 0.35 * act[9])
  down = 0.06 * opening * (1 - 0.5 * act[7] - 0.85 * act[6] - 0.55 * act[9])
  x = identity.eye_distance + half_width * _POSITIONS
  corner_line = EYE_HEIGHT - identity.eye_slant * _POSITIONS
  upper = corner_line - up * _ARCH**0.7
  lower = corner_line + down * _ARCH

  def between_lids(curve: Curve) -> Curve:
    """Clips a curve to the opening of the eye and mirrors it."""
    height = np.clip(curve[:, 1], np.interp(curve[:, 0], x, upper), np.interp(curve[:, 0], x, lower))
    return _mirrored(_curve(curve[:, 0], height), side)

  # `side` cancels the mirroring below: both eyes look in the same direction of the image.
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
    bag=_mirrored(_curve(x, corner_line + bag_drop * _ARCH**0.5 + 0.01)[2:-1], side),
    crow_feet=tuple(_mirrored(foot, side) for foot in feet),
  )


def mouth(identity: Identity, left: Activation, right: Activation) -> Mouth:
  """Returns the curves of the mouth, which depend on AUs 9, 12, 15, 16, 20, 23 and 26."""
  corners = [_corner(identity, act) for act in (left, right)]
  # Each [17]: the values of the left corner left of the middle, those of the right corner elsewhere.
  half_width, corner = (np.where(_POSITIONS < 0, *values) for values in zip(*corners, strict=True))
  act = {unit: (left[unit] + right[unit]) / 2 for unit in (9, 12, 15, 16, 20, 23, 26)}
  x = half_width * _POSITIONS
  # The displacement of the corners decreases towards the middle of the mouth.
  line = identity.mouth_height + 0.03 * act[26] + corner * np.abs(_POSITIONS) ** 1.5
  fullness = 1 - np.abs(_POSITIONS) ** (2 + 3 * act[20])
  rise = (0.07 * act[9] + 0.02 * act[12] + 0.01 * act[26]) * fullness
  drop = (0.27 * act[26] * (1 - 0.45 * act[20]) + 0.05 * act[16] + 0.03 * act[12]) * fullness
  lip = identity.lip * (1 - 0.6 * act[23]) * (1 - 0.25 * act[12])
  bow = 1 - 0.3 * np.exp(-((_POSITIONS / 0.13) ** 2))
  upper, lower = line - rise, line + drop
  top = upper - lip * np.sqrt(_ARCH) * bow
  bottom = lower + lip * (1.25 + 0.8 * act[16]) * np.sqrt(_ARCH)
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
  """Returns the horizontal distance of a mouth corner from the middle, and its displacement downwards."""
  wider = 0.26 * act[12] + 0.42 * act[20] - 0.22 * act[23] - 0.14 * act[26] + 0.04 * act[15]
  lower = -0.15 * act[12] + 0.14 * act[15] + 0.03 * act[20] + 0.06 * act[26]
  return identity.mouth_width * (1 + wider), lower


def _ring(x: np.ndarray, above: np.ndarray, below: np.ndarray) -> Curve:
  """Returns the closed curve along `above` and back along `below`, [2 * P, 2]."""
  return np.concatenate([_curve(x, above), _curve(x, below)[::-1]])


def nose_wing(identity: Identity, act: Activation, side: int) -> Curve:
  """Returns the outline of one nostril wing as an open curve, which AU 9 raises."""
  y = 0.30 * identity.nose_length - 0.045 * act[9]
  width = identity.nose_width * (1 + 0.15 * act[9])
  shape = np.array([[0.75, -0.09], [1.0, -0.05], [1.05, 0.0], [0.85, 0.03], [0.55, 0.02]])
  return _mirrored(shape * (width, 1) + (0, y), side)


def nasolabial_fold(identity: Identity, act: Activation, side: int, corner: Curve) -> Curve:
  """Returns the line from the nostril wing around the mouth corner, which AUs 9 and 12 displace.

  Args:
    identity: Face parameters of the person.
    act: Intensities of the action units on this side.
    side: Side of the face, one of SIDES.
    corner: Mouth corner on this side, [2].
  """
  start_x = identity.nose_width * 1.25
  start_y = 0.24 * identity.nose_length - 0.05 * act[9]
  end_x = abs(corner[0]) + 0.06 + 0.02 * act[12]
  positions = (_POSITIONS[::2] + 1) / 2
  bulge = (0.05 + 0.05 * act[12]) * _ARCH[::2]
  x = start_x + (end_x - start_x) * positions + bulge
  return _mirrored(_curve(x, start_y + (corner[1] + 0.03 - start_y) * positions), side)
