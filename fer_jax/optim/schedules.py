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


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "linear": linear}


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
  steps are one compiled program.

  Args:
    learning_rate: the peak.
    schedule: progress -> factor.

  Returns:
    a stateless transformation.
  """

  def update(updates: Any, state: Any, params: Any = None, *, progress: jax.Array, **extra: Any) -> Any:
    del params, extra
    rate = -learning_rate * schedule(progress)
    return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
