"""What differs from person to person (Identity) and from picture to picture of one person (Shot)."""

import dataclasses

import numpy as np

HAIR_STYLES = ("bald", "short", "parted", "fringe", "long", "curly")
BEARDS = ("none", "stubble", "moustache", "full")


@dataclasses.dataclass(frozen=True)
class Identity:
  """One person's face at rest. Lengths are in face units: the face is about 2 high, x runs right, y down.

  Attributes:
    width: half the width of the head.
    jaw: how much the jaw narrows towards the chin, 0 (square) to 0.5 (pointed).
    chin: y of the chin.
    eye_distance: x of an eye's centre.
    eye_size: scale of the eyes, 1 on average.
    eye_openness: scale of the opening between the lids, 1 on average.
    eye_slant: how much higher the outer eye corner stands than the inner one.
    iris: grey level of the iris.
    brow_height: distance from the eye's centre up to the brow.
    brow_thickness: half the thickness of the brow.
    brow_arch: how far the brow's middle stands above its ends.
    nose_length: scale of the nose's length, 1 on average.
    nose_width: half the width of the nose at its wings.
    mouth_height: y of the line between the lips.
    mouth_width: half the width of the mouth.
    lip: thickness of one lip.
    lip_shade: the lips' grey level as a fraction of the skin's.
    skin: grey level of the skin.
    hair: grey level of hair and brows.
    hair_style: one of HAIR_STYLES.
    hairline: y of the hairline's middle.
    beard: one of BEARDS.
    glasses: thickness of the frame of the glasses; 0 without glasses.
    lines: how deep the resting lines of the face are, 0 (young) to 1.
    clothes: grey level of the clothes.
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
  """A flat rectangle in front of the face: centre and half extents in face units, radians, a grey level."""

  x: float
  y: float
  half_width: float
  half_height: float
  angle: float
  shade: float


@dataclasses.dataclass(frozen=True)
class Shot:
  """What a picture owes to the moment and the camera. The defaults are a frontal, even, noise-free shot.

  Attributes:
    yaw: turn of the head to the picture's right, in radians.
    pitch: nod of the head downwards, in radians.
    roll: tilt of the head clockwise, in radians.
    shift: (x, y) of the head's centre, in face units.
    zoom: scale of the head in the picture, 1 on average.
    gaze: (x, y) of the iris from the middle of the eye, in eye half-widths.
    asymmetry: -1 (the picture's left half of the face alone acts) to 1 (the right half alone).
    light: (x, y) slope of the brightness across the picture, per half picture.
    gain: factor of the brightness.
    background: grey levels at the background's top and bottom.
    blur: standard deviation of the lens blur, as a fraction of the picture's side.
    noise: standard deviation of the sensor noise, in grey levels.
    noise_seed: seed of the sensor noise.
    occluder: what hides a part of the face, if anything.
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
  """Samples a person."""
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
    hair=rng.uniform(15, min(150, skin - 55)),
    hair_style=str(rng.choice(HAIR_STYLES, p=(0.08, 0.25, 0.2, 0.15, 0.2, 0.12))),
    hairline=rng.uniform(-0.72, -0.60),
    beard=beard,
    glasses=float(rng.random() < 0.15) * rng.uniform(0.018, 0.035),
    lines=rng.uniform(0, 1) ** 2,
    clothes=rng.uniform(20, 230),
  )


def sample_shot(rng: np.random.Generator) -> Shot:
  """Samples the circumstances of a picture."""
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
