"""An optimiser from a handful of hyper-parameters."""

import dataclasses
from typing import Any

import jax
import optax

from fer_jax.optim.schedules import SCHEDULES, scale_by_progress, with_warmup

OPTIMIZERS = ("adam", "adamw", "sgd")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax chain's hyper-parameters: clip, direction, weight decay, learning rate.

  Attributes:
    name: "adam", "adamw" (both decay decoupled from the moments) or "sgd".
    learning_rate: peak of the schedule.
    schedule: "constant", "cosine" or "linear", over a phase's progress.
    warmup: share of the phase over which the learning rate rises from 0.
    weight_decay: decoupled, of kernels (ndim > 1) alone.
    momentum: of SGD (Nesterov).
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    clip_norm: the gradient's global norm is cut to this; 0 leaves it.
  """

  name: str = "adamw"
  learning_rate: float = 1e-3
  schedule: str = "cosine"
  warmup: float = 0.0
  weight_decay: float = 0.0
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.999
  clip_norm: float = 0.0

  def __post_init__(self) -> None:
    for field, allowed in (("name", OPTIMIZERS), ("schedule", tuple(SCHEDULES))):
      if getattr(self, field) not in allowed:
        raise ValueError(f"optimizer.{field}={getattr(self, field)!r}: expected one of {', '.join(allowed)}")
    if not 0 <= self.warmup < 1:
      raise ValueError(f"optimizer.warmup={self.warmup}: expected a share of the phase, 0 <= warmup < 1")

  def schedule_factor(self, progress: jax.Array) -> jax.Array:
    """Returns the factor of the peak learning rate at `progress` in [0, 1]."""
    return with_warmup(SCHEDULES[self.schedule], self.warmup)(progress)

  def build(self) -> optax.GradientTransformationExtraArgs:
    """Returns the chain; its `update` takes the extra argument `progress` (see `scale_by_progress`)."""
    chain: list[Any] = []
    if self.clip_norm:
      chain.append(optax.clip_by_global_norm(self.clip_norm))
    if self.name == "sgd":
      chain.append(optax.trace(decay=self.momentum, nesterov=True))
    else:
      chain.append(optax.scale_by_adam(b1=self.b1, b2=self.b2))
    if self.weight_decay:
      chain.append(optax.add_decayed_weights(self.weight_decay, mask=_kernels))
    chain.append(scale_by_progress(self.learning_rate, self.schedule_factor))
    return optax.with_extra_args_support(optax.chain(*chain))


def _kernels(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)
