"""Learning rate schedules as functions of progress in [0, 1]: optax's, with fractions in place of numbers of steps.

The length of a training run may therefore be given in steps, epochs or minutes.
"""

from typing import Any

import jax
import optax

# Each maps progress in [0, 1] to a factor of the peak learning rate.
SCHEDULES: dict[str, optax.Schedule] = {
  "constant": optax.constant_schedule(1.0),
  # From 1 to 0 along half a cosine period: Loshchilov & Hutter 2017 (arXiv:1608.03983).
  "cosine": optax.cosine_decay_schedule(1.0, 1),
  "linear": optax.linear_schedule(1.0, 0.0, 1),
  # From 1/25 to 1 over the first 30 %, then down to 1/250,000, each along half a cosine period: Smith & Topin 2017
  # (arXiv:1708.07120) with the fractions and end points of PyTorch and fastai. The momentum is not cycled.
  # `optax.cosine_onecycle_schedule` is the same, but rounds its boundaries to whole numbers.
  "one_cycle": optax.join_schedules(
    [optax.cosine_decay_schedule(1 / 25, 0.3, alpha=25), optax.cosine_decay_schedule(1.0, 0.7, alpha=1 / 250_000)],
    [0.3],
  ),
  # Constant here: the training loop lowers the rate after evaluations, by `lr_scale` (see `scale_by_progress`).
  "plateau": optax.constant_schedule(1.0),
}


def stepwise(start: float, every: float, factor: float) -> optax.Schedule:
  """Returns a schedule that starts at 1 and is multiplied by `factor` at the end of each interval after `start`.

  Args:
    start: Fraction of the phase before the first interval.
    every: Length of an interval, as a fraction of the phase.
    factor: Factor applied to the learning rate at the end of each interval.

  Returns:
    Schedule: function of the progress that returns the factor of the peak learning rate.
  """
  staircase = optax.exponential_decay(1.0, every, factor, start, staircase=True)
  # Progress is a rounded quotient and may be slightly below the end of an interval: the tolerance of 1e-4 intervals
  # counts the interval as complete.
  return lambda progress: staircase(progress + 1e-4 * every)


def with_warmup(schedule: optax.Schedule, warmup: float) -> optax.Schedule:
  """Returns a schedule that rises linearly from 0 over the first `warmup` of the progress, then follows `schedule`."""
  if not warmup:
    return schedule
  # The schedule itself runs over the remaining progress, rescaled to [0, 1].
  parts = [optax.linear_schedule(0.0, 1.0, warmup), lambda remaining: schedule(remaining / (1 - warmup))]
  return optax.join_schedules(parts, [warmup])


def scale_by_progress(learning_rate: float, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
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

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
