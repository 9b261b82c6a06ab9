"""Learning rate schedules as functions of progress in [0, 1].

The length of a training run may therefore be given in steps, epochs or minutes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# progress in [0, 1] -> factor of the peak learning rate.
Schedule = Callable[[jax.Array], jax.Array]


def constant(progress: jax.Array) -> jax.Array:
  """Returns the constant factor 1."""
  return jnp.ones_like(progress)


def cosine(progress: jax.Array) -> jax.Array:
  """Falls from 1 to 0 along half a cosine period (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
  return 0.5 * (1 + jnp.cos(math.pi * progress))


def linear(progress: jax.Array) -> jax.Array:
  """Falls linearly from 1 to 0."""
  return 1 - progress


def one_cycle(progress: jax.Array) -> jax.Array:
  """Rises from 1/25 to 1 over the first 30 % of the progress, then falls to 1/250,000, each along half a cosine period.

  Smith & Topin 2017 (arXiv:1708.07120), with the fractions and end points of PyTorch and fastai. The momentum is not
  cycled.
  """
  rising = _half_cosine(1 / 25, 1.0, progress / 0.3)
  return jnp.where(progress < 0.3, rising, _half_cosine(1.0, 1 / 250_000, (progress - 0.3) / 0.7))


def stepwise(start: float, every: float, factor: float) -> Schedule:
  """Returns a schedule that starts at 1 and is multiplied by `factor` at the end of each interval after `start`.

  Args:
    start: Fraction of the phase before the first interval.
    every: Length of an interval, as a fraction of the phase.
    factor: Factor applied to the learning rate at the end of each interval.

  Returns:
    Schedule: function of the progress that returns the factor of the peak learning rate.
  """

  def schedule(progress: jax.Array) -> jax.Array:
    # Progress is a rounded quotient and may be slightly below the end of an interval: the tolerance 1e-4 counts the
    # interval as complete.
    intervals = jnp.floor((progress - start) / every + 1e-4)
    return factor ** jnp.maximum(intervals, 0.0)

  return schedule


def _half_cosine(begin: float, end: float, share: jax.Array) -> jax.Array:
  return end + (begin - end) * cosine(jnp.clip(share, 0.0, 1.0))


# "plateau" is constant here: the training loop evaluates the validation split and passes the factor as `lr_scale` (see
# `scale_by_progress`).
SCHEDULES: dict[str, Schedule] = {
  "constant": constant,
  "cosine": cosine,
  "linear": linear,
  "one_cycle": one_cycle,
  "plateau": constant,
}


def with_warmup(schedule: Schedule, warmup: float) -> Schedule:
  """Returns a schedule that rises linearly from 0 over the first `warmup` of the progress, then follows `schedule`."""
  if not warmup:
    return schedule

  def warmed(progress: jax.Array) -> jax.Array:
    rising = progress / warmup
    # The schedule itself runs over the remaining progress, rescaled to [0, 1].
    return jnp.minimum(rising, 1.0) * schedule(jnp.clip((progress - warmup) / (1 - warmup), 0.0, 1.0))

  return warmed


def scale_by_progress(learning_rate: float, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
  """Scales updates by `-learning_rate * schedule(progress)`; intended as the last transform of a chain.

  `update` takes the extra argument `progress`, a float32 scalar in [0, 1]: the completed fraction of the phase.
  Progress is an argument and not a counter in the state, so that runs planned in minutes and runs planned in steps use
  the same compiled program. The optional extra argument `lr_scale` is a further factor, by which the "plateau" schedule
  lowers the learning rate.

  Args:
    learning_rate: Peak learning rate.
    schedule: Function of the progress that returns the factor of the peak learning rate.

  Returns:
    Stateless optax transformation.
  """

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    progress: jax.Array,
    lr_scale: jax.Array | float = 1.0,
    **extra: Any,
  ) -> Any:
    del params, extra
    scale = -learning_rate * schedule(progress) * lr_scale
    # Cast back, because a float32 scale would promote 16-bit updates.
    return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
