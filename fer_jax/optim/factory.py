"""An optimiser from a handful of hyper-parameters."""

import dataclasses
import math
from typing import Any

import jax
import optax

from fer_jax.optim.gradient_centralization import LOCATIONS, centralize_gradients
from fer_jax.optim.schedules import SCHEDULES, Schedule, scale_by_progress, stepwise, with_warmup

OPTIMIZERS = ("adam", "adamw", "sgd", "muon")
_ADAM_RMS = 0.2  # of the entries of an update of Muon, so that it has the learning rates of Adam
CENTRALIZATIONS = ("", *LOCATIONS)
SCHEDULE_NAMES = (*SCHEDULES, "step")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax chain's hyper-parameters: clip, direction, weight decay, gradient centralization, learning rate.

  Coupled, the weight decay comes second.

  Attributes:
    name: "adam", "adamw" (the same here: `coupled_decay` is what tells them apart elsewhere), "sgd" or "muon": kernels
      by orthogonalized momentum (optax.contrib), scaled to the size of Adam's updates (arXiv:2502.16982), the rest by
      Adam.
    learning_rate: peak of the schedule.
    schedule: of the learning rate over a phase's progress: "constant", "cosine", "linear", "one_cycle"; "step" lowers
      it at fixed times, "plateau" when the validation split has stood still.
    warmup: share of the phase over which the learning rate rises from 0.
    decay_factor: of "step" and "plateau", what the learning rate is multiplied by.
    decay_start: of "step", the share of the phase before its first interval.
    decay_every: of "step", an interval's length, a share of the phase; the rate is lowered at the end of each.
    decay_patience: of "plateau", evaluations in a row without a better result before the rate is lowered.
    weight_decay: of kernels (ndim > 1) alone.
    coupled_decay: add the decay to the gradient, so that it goes through the moments, as PyTorch's Adam and SGD do;
      otherwise it is decoupled from them (arXiv:1711.05101). Through SGD's momentum it counts 1 / (1 - momentum) times.
    momentum: of SGD and Muon (Nesterov).
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
  decay_factor: float = 0.1
  decay_start: float = 0.0
  decay_every: float = 0.25
  decay_patience: int = 5
  weight_decay: float = 0.0
  coupled_decay: bool = False
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.999
  clip_norm: float = 0.0
  centralize: str = ""
  centralize_conv_only: bool = False

  def __post_init__(self) -> None:
    choices = {"name": OPTIMIZERS, "schedule": SCHEDULE_NAMES, "centralize": CENTRALIZATIONS}
    for field, allowed in choices.items():
      if getattr(self, field) not in allowed:
        named = ", ".join(choice or "empty" for choice in allowed)
        raise ValueError(f"optimizer.{field}={getattr(self, field)!r}: expected one of {named}")
    if not 0 <= self.warmup < 1:
      raise ValueError(f"optimizer.warmup={self.warmup}: expected a share of the phase, 0 <= warmup < 1")
    if self.schedule == "one_cycle" and self.warmup:
      raise ValueError(f"optimizer.warmup={self.warmup}: expected 0, for the schedule one_cycle has its own rise")
    if not 0 < self.decay_factor <= 1:
      raise ValueError(f"optimizer.decay_factor={self.decay_factor}: expected 0 < factor <= 1")
    if not 0 <= self.decay_start < 1:
      raise ValueError(f"optimizer.decay_start={self.decay_start}: expected a share of the phase, 0 <= start < 1")
    if not 0 < self.decay_every <= 1:
      raise ValueError(f"optimizer.decay_every={self.decay_every}: expected a share of the phase, 0 < every <= 1")
    if self.decay_patience < 1:
      raise ValueError(f"optimizer.decay_patience={self.decay_patience}: expected evaluations, 1 or more")

  def schedule_factor(self, progress: jax.Array) -> jax.Array:
    """Returns the factor of the peak learning rate at `progress` in [0, 1]; a plateau's is not part of it."""
    return with_warmup(self._schedule(), self.warmup)(progress)

  def lower_rate(self, worse: int) -> float:
    """Returns the factor of the learning rate after an evaluation: less than 1 where a plateau has lasted too long.

    Args:
      worse: evaluations in a row without a better result, this one included.
    """
    on_plateau = self.schedule == "plateau" and worse > 0 and worse % self.decay_patience == 0
    return self.decay_factor if on_plateau else 1.0

  def build(self) -> optax.GradientTransformationExtraArgs:
    """Returns the chain; its `update` takes the extra arguments `progress` and `rate` (see `scale_by_progress`)."""
    chain: list[Any] = []
    centralization = centralize_gradients(conv_only=self.centralize_conv_only)
    if self.clip_norm:
      chain.append(optax.clip_by_global_norm(self.clip_norm))
    decay = optax.add_decayed_weights(self.weight_decay, mask=_kernels)
    if self.weight_decay and self.coupled_decay:
      chain.append(decay)
    if self.centralize == "gradient":
      chain.append(centralization)
    chain.append(self._direction())
    if self.weight_decay and not self.coupled_decay:
      chain.append(decay)
    if self.centralize == "direction":
      chain.append(centralization)
    chain.append(scale_by_progress(self.learning_rate, self.schedule_factor))
    return optax.with_extra_args_support(optax.chain(*chain))

  def _direction(self) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=self.b1, b2=self.b2)
    match self.name:
      case "sgd":
        return optax.trace(decay=self.momentum, nesterov=True)
      case "muon":
        orthogonalized = optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=_as_matrices)
        muon = optax.chain(orthogonalized, optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adam, updates)))
        return optax.partition({True: muon, False: adam}, _kernels)
      case _:
        return adam

  def _schedule(self) -> Schedule:
    if self.schedule == "step":
      return stepwise(self.decay_start, self.decay_every, self.decay_factor)
    return SCHEDULES[self.schedule]


def _kernels(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _as_matrices(params: Any) -> Any:
  """Tells Muon that a kernel's last axis is its outputs and the others are its inputs."""

  def dimensions(kernel: Any) -> optax.contrib.MuonDimensionNumbers:
    return optax.contrib.MuonDimensionNumbers(tuple(range(kernel.ndim - 1)), kernel.ndim - 1)

  return jax.tree.map(dimensions, params)


def _as_large_as_adam(update: jax.Array) -> jax.Array:
  """Scales an orthogonal matrix, whose entries have the root mean square 1 / sqrt(longer side), to that of Adam."""
  return update * (_ADAM_RMS * math.sqrt(max(math.prod(update.shape[:-1]), update.shape[-1])))
