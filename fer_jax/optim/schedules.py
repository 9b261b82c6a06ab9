"""Learning rates as functions of progress, so that a run may be measured in steps, epochs or minutes alike."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# progress in [0, 1] -> factor of the peak learning rate.
Schedule = Callable[[jax.Array], jax.Array]


def constant(progress: jax.Array) -> jax.Array:
  """Keeps the peak learning rate throughout."""
  return jnp.ones_like(progress)


def cosine(progress: jax.Array) -> jax.Array:
  """Falls from 1 to 0 along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
  return 0.5 * (1 + jnp.cos(math.pi * progress))


def linear(progress: jax.Array) -> jax.Array:
  """Falls from 1 to 0 along a line."""
  return 1 - progress


def one_cycle(progress: jax.Array) -> jax.Array:
  """Rises from 1/25 to 1 over the first 3/10, then falls to 1/250,000, each along half a cosine.

  Smith & Topin 2017 (arXiv:1708.07120), with the shares and the ends that PyTorch and fastai have settled on. The
  momentum is left alone.
  """
  rising = _half_cosine(1 / 25, 1.0, progress / 0.3)
  return jnp.where(progress < 0.3, rising, _half_cosine(1.0, 1 / 250_000, (progress - 0.3) / 0.7))


def stepwise(start: float, every: float, factor: float) -> Schedule:
  """Returns a schedule that stays at 1, and from `start` on is multiplied by `factor` after each `every`.

  Args:
    start: share of the phase that is over when the first interval begins.
    every: length of an interval, a share of the phase.
    factor: of the learning rate.
  """

  def schedule(progress: jax.Array) -> jax.Array:
    # An interval ends on a step, whose progress is a rounded quotient: a hair below it is the end all the same.
    intervals = jnp.floor((progress - start) / every + 1e-4)
    return factor ** jnp.maximum(intervals, 0.0)

  return schedule


def _half_cosine(begin: float, end: float, share: jax.Array) -> jax.Array:
  return end + (begin - end) * cosine(jnp.clip(share, 0.0, 1.0))


# "plateau" is constant here: the loop, which sees the validation split, tells the factor (see `scale_by_progress`).
SCHEDULES: dict[str, Schedule] = {
  "constant": constant,
  "cosine": cosine,
  "linear": linear,
  "one_cycle": one_cycle,
  "plateau": constant,
}


def with_warmup(schedule: Schedule, warmup: float) -> Schedule:
  """Returns a schedule that rises linearly over the first `warmup` of the progress, then follows `schedule`."""
  if not warmup:
    return schedule

  def warmed(progress: jax.Array) -> jax.Array:
    rising = progress / warmup
    return jnp.minimum(rising, 1.0) * schedule(jnp.clip((progress - warmup) / (1 - warmup), 0.0, 1.0))

  return warmed


def scale_by_progress(learning_rate: float, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
  """Scales updates by `-learning_rate * schedule(progress)`; the last transform of a chain.

  `update` takes the extra argument `progress`, a float32 scalar in [0, 1]: how much of the phase is behind.
  It is an argument and not a count kept in the state, so that a run planned in minutes and a run planned in
  steps are one compiled program. It may take `rate` too, a further factor: what a plateau has made of it.

  Args:
    learning_rate: the peak.
    schedule: progress -> factor.

  Returns:
    a stateless transformation.
  """

  def update(
    updates: Any, state: Any, params: Any = None, *, progress: jax.Array, rate: jax.Array | float = 1.0, **extra: Any
  ) -> Any:
    del params, extra
    scale = -learning_rate * schedule(progress) * rate
    return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
