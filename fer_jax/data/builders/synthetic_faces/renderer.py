"""Renders a grey image of a face from its identity, its action units and the shot.

    rng = np.random.default_rng(0)
    image = render(sample_identity(rng), {6: 0.9, 12: 0.8}, sample_shot(rng), size=48)

The face is painted in flat shades on a canvas finer than the image, farthest parts first. The canvas is then averaged
down, lit, blurred and given noise. The result is not photorealistic, but a network has to learn the parts of a face and
their movements, and to generalize to unseen people.
"""

import functools
import math
from collections.abc import Mapping

import cv2
import numpy as np

from fer_jax.data.builders.synthetic_faces import geometry
from fer_jax.data.builders.synthetic_faces.canvas import Canvas
from fer_jax.data.builders.synthetic_faces.expressions import ACTION_UNITS
from fer_jax.data.builders.synthetic_faces.geometry import Activation
from fer_jax.data.builders.synthetic_faces.identity import Identity, Occluder, Shot

# Minimum side of the canvas in pixels, enough to separate wrinkles. Larger images are painted at twice their size.
CANVAS = 192


def render(identity: Identity, action_units: Mapping[int, float], shot: Shot, size: int) -> np.ndarray:
  """Renders one face.

  The function is deterministic. A larger size gives the same image at a higher resolution.

  Args:
    identity: Face parameters of the person.
    action_units: Intensity in [0, 1] of each active unit of ACTION_UNITS.
    shot: Pose, light, camera and background.
    size: Side of the image in pixels, 16 or more.

  Returns:
    Grey image, uint8 [size, size].

  Raises:
    ValueError: An action unit is unknown or its intensity is outside [0, 1].
  """
  for unit, intensity in action_units.items():
    if unit not in ACTION_UNITS or not 0 <= intensity <= 1:
      raise ValueError(
        f"action unit {unit} at intensity {intensity}: expected one of {[*ACTION_UNITS]} at an intensity in [0, 1]"
      )
  left, right = (Activation(action_units, shot.asymmetry, side) for side in geometry.SIDES)
  canvas = Canvas(shot, size * max(2, math.ceil(CANVAS / size)))
  # Painter's algorithm: later parts cover earlier ones.
  _paint_background(canvas, shot)
  _paint_head(canvas, identity, jaw_drop=(left[26] + right[26]) / 2)
  for act, side in zip((left, right), geometry.SIDES, strict=True):
    _paint_cheek(canvas, identity, act, side)
    _paint_eye(canvas, identity, act, side, shot.gaze)
  _paint_mouth(canvas, identity, left, right)
  _paint_nose(canvas, identity, left, right)
  _paint_forehead(canvas, identity, left, right)
  _paint_hair(canvas, identity)
  _paint_glasses(canvas, identity)
  if shot.occluder is not None:
    _paint_occluder(canvas, shot.occluder)
  return _photograph(canvas.canvas, shot, size)


def _photograph(canvas: np.ndarray, shot: Shot, size: int) -> np.ndarray:
  """Averages the canvas down to the image size, then applies light, lens blur and sensor noise.

  Args:
    canvas: Painted face, uint8 [C, C] with C at least twice the size.
    shot: Light and camera of the image.
    size: Side of the image in pixels.

  Returns:
    Grey image, uint8 [size, size].
  """
  image: np.ndarray = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
  # Linear brightness slope times a vignette.
  across, down, falloff = _light_field(size)
  image *= shot.gain * (1 + shot.light[0] * across + shot.light[1] * down - 0.18 * falloff)
  if shot.blur > 0:
    image = cv2.GaussianBlur(image, (0, 0), shot.blur * size)
  if shot.noise > 0:
    noise = np.random.default_rng(shot.noise_seed).standard_normal((size, size), np.float32)
    image += shot.noise * noise
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _light_field(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns x and y in [-1, 1] and the squared distance from the centre of each pixel, each float32 [size, size]."""
  axis = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size) - 1
  across, down = np.meshgrid(axis, axis)
  return across, down, across**2 + down**2


def _paint_background(canvas: Canvas, shot: Shot) -> None:
  """Fills the canvas with a vertical gradient."""
  rows = np.linspace(*shot.background, len(canvas.canvas))
  canvas.canvas[:] = np.clip(rows, 0, 255).astype(np.uint8)[:, None]


def _paint_head(canvas: Canvas, identity: Identity, jaw_drop: float) -> None:
  """Paints the parts around the face (back hair, shoulders, neck, ears) and then the face itself."""
  skin, width = identity.skin, identity.width
  if identity.hair_style == "long":
    locks = np.array([[-1.25, 1.5], [-1.22, -0.3], [1.22, -0.3], [1.25, 1.5]]) * (width, 1)
    canvas.fill(locks, 0.85 * identity.hair, flat=True)
    canvas.fill(geometry.head(identity, 0, math.pi, 2 * math.pi, 1.2), 0.85 * identity.hair, flat=True)
  shoulders = np.array([[-1.6, 1.6], [-1.3, 1.32], [-0.4, 1.12], [0.4, 1.12], [1.3, 1.32], [1.6, 1.6]])
  canvas.fill(shoulders, identity.clothes, flat=True, depth=-0.3)
  neck = np.array([[-0.42, 0.5], [0.42, 0.5], [0.46, 1.2], [0, 1.35], [-0.46, 1.2]])
  canvas.fill(neck, 0.68 * skin, flat=True, depth=-0.2)
  if identity.hair_style != "long":
    for side in geometry.SIDES:
      canvas.fill(geometry.ellipse(side * width, 0.08, 0.09, 0.2), 0.85 * skin, flat=True, depth=-0.1)
      canvas.fill(geometry.ellipse(side * width, 0.08, 0.045, 0.12), 0.66 * skin, flat=True, depth=-0.1)
  outline = geometry.head(identity, jaw_drop)
  canvas.fill(outline, 0.6 * skin, flat=True)
  # Seven outlines of decreasing size and increasing brightness give the face a round appearance.
  for step in np.linspace(0, 1, 7):
    canvas.fill((0.97 - 0.3 * step) * outline, (0.8 + 0.2 * step) * skin, flat=True, depth=0.1 * step)


def _paint_cheek(canvas: Canvas, identity: Identity, act: Activation, side: int) -> None:
  """Paints the ball of the cheek, which AUs 6 and 12 raise and emphasize."""
  skin, raised = identity.skin, max(act[6], 0.7 * act[12])
  height = 0.26 - 0.09 * raised
  canvas.fill(geometry.ellipse(side * 0.44, height + 0.02, 0.17, 0.13), (1 - 0.07 * raised) * skin)
  canvas.fill(geometry.ellipse(side * 0.43, height, 0.14, 0.10), (1 + 0.07 * raised) * skin)


def _paint_eye(canvas: Canvas, identity: Identity, act: Activation, side: int, gaze: tuple[float, float]) -> None:
  """Paints one eye and its brow."""
  skin, eye = identity.skin, geometry.eye(identity, act, side, gaze)
  socket = geometry.ellipse(side * identity.eye_distance, geometry.EYE_HEIGHT - 0.02, 0.21, 0.13)
  canvas.fill(socket, 0.88 * skin)
  canvas.fill(eye.outline, min(248.0, 0.35 * skin + 165))
  canvas.fill(eye.iris, identity.iris)
  canvas.fill(eye.pupil, 8)
  canvas.line(eye.crease, 0.7 * skin, 0.014)
  canvas.line(eye.upper_lid, 0.22 * skin, 0.026)
  squeeze = max(act[6], 0.5 * act[7], 0.6 * act[9])
  canvas.line(eye.bag, _wrinkle(skin, 0.3 * identity.lines + 0.8 * squeeze), 0.02)
  if act[6] > 0.2:
    for foot in eye.crow_feet:
      canvas.line(foot, _wrinkle(skin, 0.9 * act[6]), 0.014)
  canvas.fill(geometry.brow(identity, act, side), identity.hair)


def _wrinkle(skin: float, depth: float) -> float:
  """Returns the grey level of a skin fold of depth 0 (invisible) to 1 (deep)."""
  return skin * (1 - 0.42 * min(1.0, depth))


def _paint_mouth(canvas: Canvas, identity: Identity, left: Activation, right: Activation) -> None:
  """Paints the folds next to the mouth, the shadow below the lower lip, the beard and the mouth."""
  skin, mouth = identity.skin, geometry.mouth(identity, left, right)
  lip = identity.lip_shade * skin
  for act, side, corner in zip((left, right), geometry.SIDES, mouth.corners, strict=True):
    fold = geometry.nasolabial_fold(identity, act, side, corner)
    depth = max(0.5 * identity.lines, act[12], 0.95 * act[9], 0.4 * act[20])
    if depth > 0.1:
      canvas.line(fold, _wrinkle(skin, depth), 0.024)
    if act[15] > 0.2:
      below = np.array([[corner[0] + 0.015 * side, corner[1] + 0.02], [corner[0] + 0.05 * side, corner[1] + 0.13]])
      canvas.line(below, _wrinkle(skin, act[15]), 0.022)
  lower_lip = mouth.lips[len(mouth.lips) // 2 :]
  canvas.line(lower_lip[5:-5] + np.array([0, 0.035]), 0.8 * skin, 0.03)
  # The beard before the lips, which cover its edge.
  _paint_beard(canvas, identity, (left[26] + right[26]) / 2, mouth)
  canvas.fill(mouth.lips, lip)
  canvas.fill(mouth.opening, 18)
  canvas.fill(mouth.upper_teeth, 225)
  canvas.fill(mouth.lower_teeth, 205)
  canvas.line(mouth.opening if mouth.gap > 0.02 else mouth.line, 0.4 * lip, 0.02)


def _paint_beard(canvas: Canvas, identity: Identity, jaw_drop: float, mouth: geometry.Mouth) -> None:
  """Paints stubble, a moustache or a full beard."""
  if identity.beard in ("stubble", "full"):
    jaw = geometry.head(identity, jaw_drop, 0.06 * math.pi, 0.94 * math.pi)
    cheeks = np.array([[-0.55, 0.42], [-0.3, 0.36], [0.3, 0.36], [0.55, 0.42]])
    share = 0.3 if identity.beard == "stubble" else 0.7
    shade = (1 - share) * identity.skin + share * identity.hair
    canvas.fill(np.concatenate([jaw, cheeks]), shade, flat=True, depth=0.15)
  if identity.beard in ("moustache", "full"):
    upper = mouth.lips[: len(mouth.lips) // 2]
    canvas.fill(np.concatenate([upper * (1.1, 1), upper[::-1] * (0.8, 1) - (0, 0.1)]), identity.hair)


def _paint_nose(canvas: Canvas, identity: Identity, left: Activation, right: Activation) -> None:
  """Paints the nose and, for AU 9, the wrinkles across its bridge."""
  skin, bottom = identity.skin, 0.30 * identity.nose_length
  ridge = np.array([[-0.045, -0.1], [0.045, -0.1], [0.07, bottom - 0.04], [-0.07, bottom - 0.04]])
  canvas.fill(ridge, 1.06 * skin, depth=0.08)
  canvas.line(ridge[1:3], 0.82 * skin, 0.02, depth=0.06)
  for act, side in zip((left, right), geometry.SIDES, strict=True):
    wing = geometry.nose_wing(identity, act, side)
    canvas.line(wing, 0.62 * skin, 0.026, depth=0.08)
    nostril = geometry.ellipse(side * 0.42 * identity.nose_width, bottom + 0.01 - 0.03 * act[9], 0.03, 0.018)
    canvas.fill(nostril, 0.25 * skin, depth=0.1)
    if act[9] > 0.1:
      for height in (-0.12, -0.04, 0.04):
        across = np.array([[0.0, height - 0.02], [0.07, height], [0.12, height + 0.05]]) * (side, 1)
        canvas.line(across, _wrinkle(skin, act[9]), 0.022, depth=0.05)


def _paint_forehead(canvas: Canvas, identity: Identity, left: Activation, right: Activation) -> None:
  """Paints the furrows of the forehead: horizontal for AUs 1 and 2, vertical between the brows for AU 4."""
  skin = identity.skin
  inner, outer = (left[1] + right[1]) / 2, (left[2] + right[2]) / 2
  x = np.linspace(-1, 1, 9)
  reach = 0.22 + 0.28 * outer
  for height in (-0.52, -0.60):
    depth = max(0.25 * identity.lines, 0.35 * inner + 0.35 * outer)
    if depth > 0.05:
      arch = np.stack([reach * x, height - 0.05 * inner + 0.03 * x * x], axis=-1)
      canvas.line(arch, _wrinkle(skin, depth), 0.018)
  for act, side in zip((left, right), geometry.SIDES, strict=True):
    if act[4] > 0.1:
      furrow = np.array([[side * 0.05, -0.40], [side * 0.045, -0.24]])
      canvas.line(furrow, _wrinkle(skin, act[4]), 0.024)


def _paint_hair(canvas: Canvas, identity: Identity) -> None:
  """Paints the hair on top of the head and its strands."""
  # `top` and `edge` are the upper and lower boundaries of the hair.
  if identity.hair_style == "bald":
    return
  swell = {"short": 1.05, "parted": 1.1, "fringe": 1.08, "long": 1.1, "curly": 1.16}[identity.hair_style]
  top = geometry.head(identity, 0, math.pi, 2 * math.pi, swell)
  across = np.linspace(1, -1, 33)
  start = identity.hairline
  hairline = {
    "short": start + 0.32 * across**4,
    "parted": start - 0.05 + 0.22 * np.abs(across - 0.4) ** 1.5,
    "fringe": np.full_like(across, -0.53) + 0.012 * np.sin(40 * across),
    "long": start - 0.12 + 0.55 * np.abs(across) ** 1.5,
    "curly": start + 0.3 * across**4 + 0.03 * np.sin(25 * across),
  }[identity.hair_style]
  if identity.hair_style == "curly":
    top = top * (1 + 0.03 * np.sin(np.linspace(0, 14 * np.pi, len(top))))[:, None]
  sideburns = np.array([[[0.95, 0.0]], [[-0.95, 0.0]]]) * (identity.width, 1)
  # Half the width of the head at each height, consistent with geometry.head: no gap between hair and face.
  half = identity.width * (1 - (hairline / 1.08) ** 2) ** 0.4
  edge = np.stack([0.96 * half * across, hairline], axis=-1)
  canvas.fill(np.concatenate([top, sideburns[0], edge, sideburns[1]]), identity.hair, flat=True, depth=0.05)
  for strand in range(2, 31, 4):
    ends = np.stack([top[round(strand * 40 / 32)] * (0.95, 0.97), edge[32 - strand]])
    canvas.line(ends, 1.12 * identity.hair + 4, 0.02, flat=True, depth=0.05)


def _paint_glasses(canvas: Canvas, identity: Identity) -> None:
  """Paints the rims, temples and bridge of the glasses, if the person has any."""
  if identity.glasses == 0:
    return
  inner = identity.eye_distance - 0.23
  for side in geometry.SIDES:
    rim = geometry.ellipse(side * identity.eye_distance, geometry.EYE_HEIGHT + 0.03, 0.24, 0.2)
    canvas.line(rim, 25, identity.glasses, depth=0.1, closed=True)
    temple = np.array([[side * (identity.eye_distance + 0.23), -0.08], [side * 0.97 * identity.width, -0.1]])
    canvas.line(temple, 25, identity.glasses, flat=True, depth=0.1)
  canvas.line(np.array([[-inner, -0.08], [0, -0.11], [inner, -0.08]]), 25, identity.glasses, depth=0.1)


def _paint_occluder(canvas: Canvas, occluder: Occluder) -> None:
  """Paints the occluding rectangle."""
  # Corners [4, 2]: scaled, rotated, then moved to the centre.
  box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (occluder.half_width, occluder.half_height)
  cos, sin = math.cos(occluder.angle), math.sin(occluder.angle)
  canvas.fill(box @ np.array([[cos, sin], [-sin, cos]]) + (occluder.x, occluder.y), occluder.shade)
