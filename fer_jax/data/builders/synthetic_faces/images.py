"""The dataset as a function from (seed, subject, expression, repetition) to an image."""

import dataclasses

import numpy as np

from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS, ONE_SIDED, sample_action_units
from fer_jax.data.builders.synthetic_faces.identity import Identity, sample_identity, sample_shot
from fer_jax.data.builders.synthetic_faces.renderer import render

_LABELS = {name: label for label, name in enumerate((*EXPRESSIONS, *ONE_SIDED))}


def person(seed: int, subject: int) -> Identity:
  """Returns the face parameters of a subject.

  Args:
    seed: Random seed of the dataset, 0 or more.
    subject: Number of the person, starting at 0.
  """
  return sample_identity(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(subject,))))


def render_image(
  seed: int,
  subject: int,
  expression: str,
  repetition: int,
  size: int,
  *,
  strength: float = 1.0,
  yaw: float | None = None,
) -> np.ndarray:
  """Renders one image of the dataset; a pure function of its arguments.

  Args:
    seed: Random seed of the dataset, 0 or more.
    subject: Number of the person, starting at 0.
    expression: Name of the expression, a key of EXPRESSIONS or ONE_SIDED.
    repetition: Number of the image among those of this subject and expression, starting at 0.
    size: Side of the image in pixels.
    strength: Fraction of the full expression, 0 to 1; gives the frames of a movement with the same shot.
    yaw: Rotation of the head in radians; random if None.

  Returns:
    Grey image, uint8 [size, size].
  """
  # `spawn_key` gives every image an independent random stream, whatever images were rendered before.
  key = (subject, _LABELS[expression], repetition)
  rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
  action_units = {unit: strength * value for unit, value in sample_action_units(rng, expression).items()}
  shot = sample_shot(rng)
  if expression in ONE_SIDED:
    # -1 and 1 leave only one half of the face active.
    shot = dataclasses.replace(shot, asymmetry=float(rng.choice((-1.0, 1.0))))
  if yaw is not None:
    shot = dataclasses.replace(shot, yaw=yaw)
  return render(person(seed, subject), action_units, shot, size)
