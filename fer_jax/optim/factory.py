"""An optimiser from a handful of hyper-parameters."""

import dataclasses
from typing import Any

import jax
import optax

from fer_jax.optim.gradient_centralization import LOCATIONS, centralize_gradients
from fer_jax.optim.schedules import SCHEDULES, scale_by_progress, with_warmup

OPTIMIZERS = ("adam", "adamw", "sgd")
CENTRALIZATIONS = ("", *LOCATIONS)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax chain's hyper-parameters: clip, direction, weight decay, gradient centralization, learning rate.

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
    centralize: where gradient centralization (arXiv:2004.01461) is done: the "gradient", before the moments, or the
      final "direction", weight decay included; "" for nowhere.
    centralize_conv_only: of kernels with four axes alone.
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
  centralize: str = ""
  centralize_conv_only: bool = False

  def __post_init__(self) -> None:
    choices = {"name": OPTIMIZERS, "schedule": tuple(SCHEDULES), "centralize": CENTRALIZATIONS}
    for field, allowed in choices.items():
      if getattr(self, field) not in allowed:
        named = ", ".join(choice or "empty" for choice in allowed)
        raise ValueError(f"optimizer.{field}={getattr(self, field)!r}: expected one of {named}")
    if not 0 <= self.warmup < 1:
      raise ValueError(f"optimizer.warmup={self.warmup}: expected a share of the phase, 0 <= warmup < 1")

  def schedule_factor(self, progress: jax.Array) -> jax.Array:
    """Returns the factor of the peak learning rate at `progress` in [0, 1]."""
    return with_warmup(SCHEDULES[self.schedule], self.warmup)(progress)

  def build(self) -> optax.GradientTransformationExtraArgs:
    """Returns the chain; its `update` takes the extra argument `progress` (see `scale_by_progress`)."""
    chain: list[Any] = []
    centralization = centralize_gradients(conv_only=self.centralize_conv_only)
    if self.clip_norm:
      chain.append(optax.clip_by_global_norm(self.clip_norm))
    if self.centralize == "gradient":
      chain.append(centralization)
    if self.name == "sgd":
      chain.append(optax.trace(decay=self.momentum, nesterov=True))
    else:
      chain.append(optax.scale_by_adam(b1=self.b1, b2=self.b2))
    if self.weight_decay:
      chain.append(optax.add_decayed_weights(self.weight_decay, mask=_kernels))
    if self.centralize == "direction":
      chain.append(centralization)
    chain.append(scale_by_progress(self.learning_rate, self.schedule_factor))
    return optax.with_extra_args_support(optax.chain(*chain))


def _kernels(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)
