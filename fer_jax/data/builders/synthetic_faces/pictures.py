"""The dataset as a function: the picture of a seed, a subject, an expression and a repetition."""

import dataclasses

import numpy as np

from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS, ONE_SIDED, sample_action_units
from fer_jax.data.builders.synthetic_faces.identity import Identity, sample_identity, sample_shot
from fer_jax.data.builders.synthetic_faces.renderer import render

_LABELS = {name: label for label, name in enumerate((*EXPRESSIONS, *ONE_SIDED))}


def person(seed: int, subject: int) -> Identity:
  """Returns who the subject of a dataset is."""
  return sample_identity(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(subject,))))


def picture(
  seed: int,
  subject: int,
  expression: str,
  repetition: int,
  size: int,
  *,
  strength: float = 1.0,
  yaw: float | None = None,
) -> np.ndarray:
  """Draws one picture of a dataset; it depends on the arguments alone, not on what was drawn before.

  Args:
    seed: the dataset's seed, 0 or more.
    subject: number of the person, from 0.
    expression: a key of EXPRESSIONS or ONE_SIDED.
    repetition: number of the picture among those of this subject and expression, from 0.
    size: side in pixels.
    strength: share of the full expression, 0 to 1: the same shot, earlier or later in the movement.
    yaw: turn of the head in radians in place of a random one.

  Returns:
    uint8 [size, size].
  """
  key = (subject, _LABELS[expression], repetition)
  rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
  action_units = {unit: strength * value for unit, value in sample_action_units(rng, expression).items()}
  shot = sample_shot(rng)
  if expression in ONE_SIDED:
    shot = dataclasses.replace(shot, asymmetry=float(rng.choice((-1.0, 1.0))))
  if yaw is not None:
    shot = dataclasses.replace(shot, yaw=yaw)
  return render(person(seed, subject), action_units, shot, size)
