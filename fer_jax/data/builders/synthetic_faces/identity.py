"""Random parameters of a rendered face: those of the person (Identity) and those of the single image (Shot)."""

import dataclasses

import numpy as np

HAIR_STYLES = ("bald", "short", "parted", "fringe", "long", "curly")
BEARDS = ("none", "stubble", "moustache", "full")


@dataclasses.dataclass(frozen=True)
class Identity:
  """Face of one person at rest.

  Lengths are in face units: the face is about 2 units high, x points right and y points down. Grey levels are 0 to 255.

  Attributes:
    width: Half the width of the head.
    jaw: Narrowing of the jaw towards the chin, 0 (square) to 0.5 (pointed).
    chin: y coordinate of the chin.
    eye_distance: x coordinate of the centre of an eye.
    eye_size: Scale of the eyes, 1 on average.
    eye_openness: Scale of the opening between the lids, 1 on average.
    eye_slant: Height of the outer eye corner, relative to the centre of the eye.
    iris: Grey level of the iris.
    brow_height: Distance from the centre of the eye up to the brow.
    brow_thickness: Half the thickness of the brow.
    brow_arch: Height of the middle of the brow above its ends.
    nose_length: Scale of the length of the nose, 1 on average.
    nose_width: Half the width of the nose at its wings.
    mouth_height: y coordinate of the line between the lips.
    mouth_width: Half the width of the mouth.
    lip: Thickness of one lip.
    lip_shade: Grey level of the lips as a fraction of that of the skin.
    skin: Grey level of the skin.
    hair: Grey level of the hair and brows.
    hair_style: Hair style, one of HAIR_STYLES.
    hairline: y coordinate of the middle of the hairline.
    beard: Beard style, one of BEARDS.
    glasses: Thickness of the frame of the glasses; 0 without glasses.
    lines: Depth of the lines of the face at rest, 0 (young) to 1.
    clothes: Grey level of the clothes.
  """

  width: float
  jaw: float
  chin: float
  eye_distance: float
  eye_size: float
  eye_openness: float
  eye_slant: float
  iris: float
  brow_height: float
  brow_thickness: float
  brow_arch: float
  nose_length: float
  nose_width: float
  mouth_height: float
  mouth_width: float
  lip: float
  lip_shade: float
  skin: float
  hair: float
  hair_style: str
  hairline: float
  beard: str
  glasses: float
  lines: float
  clothes: float


@dataclasses.dataclass(frozen=True)
class Occluder:
  """A flat rectangle in front of the face.

  Attributes:
    x: x coordinate of the centre, in face units.
    y: y coordinate of the centre, in face units.
    half_width: Half the width, in face units.
    half_height: Half the height, in face units.
    angle: Rotation in radians.
    shade: Grey level.
  """

  x: float
  y: float
  half_width: float
  half_height: float
  angle: float
  shade: float


@dataclasses.dataclass(frozen=True)
class Shot:
  """Pose, light and camera of one image. The defaults give a frontal, evenly lit, noise-free image.

  Attributes:
    yaw: Rotation of the head towards the right of the image, in radians.
    pitch: Downward rotation of the head, in radians.
    roll: Clockwise rotation of the head, in radians.
    shift: Position (x, y) of the centre of the head, in face units.
    zoom: Scale of the head in the image, 1 on average.
    gaze: Offset (x, y) of the iris from the middle of the eye, in half-widths of the eye.
    asymmetry: Imbalance of the expression, from -1 (only the left half of the face in the image is active) to 1 (only
      the right half).
    light: Slope (x, y) of the brightness, as a fraction per half image.
    gain: Factor of the brightness.
    background: Grey levels at the top and bottom of the background.
    blur: Standard deviation of the lens blur, as a fraction of the side of the image.
    noise: Standard deviation of the sensor noise, in grey levels.
    noise_seed: Random seed of the sensor noise.
    occluder: Rectangle that hides a part of the face, or None.
  """

  yaw: float = 0.0
  pitch: float = 0.0
  roll: float = 0.0
  shift: tuple[float, float] = (0.0, 0.0)
  zoom: float = 1.0
  gaze: tuple[float, float] = (0.0, 0.0)
  asymmetry: float = 0.0
  light: tuple[float, float] = (0.0, 0.0)
  gain: float = 1.0
  background: tuple[float, float] = (128.0, 128.0)
  blur: float = 0.0
  noise: float = 0.0
  noise_seed: int = 0
  occluder: Occluder | None = None


def sample_identity(rng: np.random.Generator) -> Identity:
  """Returns a random person."""
  skin = rng.uniform(120, 215)
  beard = str(rng.choice(BEARDS, p=(0.7, 0.1, 0.08, 0.12)))
  return Identity(
    width=rng.uniform(0.70, 0.84),
    jaw=rng.uniform(0.05, 0.3),
    chin=rng.uniform(0.94, 1.06),
    eye_distance=rng.uniform(0.31, 0.38),
    eye_size=rng.uniform(0.9, 1.15),
    eye_openness=rng.uniform(0.85, 1.15),
    eye_slant=rng.uniform(-0.015, 0.03),
    iris=rng.uniform(20, 75),
    brow_height=rng.uniform(0.20, 0.25),
    brow_thickness=rng.uniform(0.02, 0.038),
    brow_arch=rng.uniform(0.0, 0.035),
    nose_length=rng.uniform(0.85, 1.1),
    nose_width=rng.uniform(0.10, 0.155),
    mouth_height=rng.uniform(0.52, 0.60),
    mouth_width=rng.uniform(0.23, 0.30),
    lip=rng.uniform(0.035, 0.065),
    lip_shade=rng.uniform(0.6, 0.82),
    skin=skin,
    hair=rng.uniform(15, min(150, skin - 55)),  # Always darker than the skin, so that the brows are visible.
    hair_style=str(rng.choice(HAIR_STYLES, p=(0.08, 0.25, 0.2, 0.15, 0.2, 0.12))),
    hairline=rng.uniform(-0.72, -0.60),
    beard=beard,
    glasses=float(rng.random() < 0.15) * rng.uniform(0.018, 0.035),
    lines=rng.uniform(0, 1) ** 2,  # Squared, so that shallow lines are more frequent.
    clothes=rng.uniform(20, 230),
  )


def sample_shot(rng: np.random.Generator) -> Shot:
  """Returns random circumstances of one image."""
  top, bottom = rng.uniform(10, 245) + rng.uniform(-35, 35, 2)
  occluder = None
  if rng.random() < 0.05:
    occluder = Occluder(
      x=rng.uniform(-0.9, 0.9),
      y=rng.uniform(-0.7, 1.0),
      half_width=rng.uniform(0.08, 0.16),
      half_height=rng.uniform(0.15, 0.4),
      angle=rng.uniform(0, np.pi),
      shade=rng.uniform(0, 255),
    )
  return Shot(
    yaw=rng.uniform(-0.28, 0.28),
    pitch=rng.uniform(-0.14, 0.14),
    roll=rng.uniform(-0.18, 0.18),
    shift=(rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)),
    zoom=rng.uniform(0.94, 1.08),
    gaze=(rng.uniform(-0.25, 0.25), rng.uniform(-0.1, 0.1)),
    asymmetry=float(np.clip(rng.normal(0, 0.1), -0.3, 0.3)),
    light=(rng.uniform(-0.35, 0.35), rng.uniform(-0.25, 0.15)),
    gain=rng.uniform(0.7, 1.15),
    background=(top, bottom),
    blur=rng.uniform(0, 0.012),
    noise=rng.uniform(1, 7),
    noise_seed=int(rng.integers(2**32)),
    occluder=occluder,
  )
