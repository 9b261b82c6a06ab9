"""Builds an optax optimizer from a small set of hyper-parameters."""

import dataclasses
import math
from typing import Any

import jax
import optax

from fer_jax.optim.gradient_centralization import LOCATIONS, centralize_gradients
from fer_jax.optim.schedules import SCHEDULES, scale_by_progress, stepwise, with_warmup

OPTIMIZERS = ("adam", "adamw", "sgd", "muon")
_ADAM_RMS = 0.2  # root mean square of the entries of Muon's updates; lets Muon use the learning rates of Adam
CENTRALIZATIONS = ("", *LOCATIONS)
SCHEDULE_NAMES = (*SCHEDULES, "step")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Hyper-parameters of an optax chain: clipping, direction, weight decay, gradient centralization, learning rate.

  The transforms are applied in this order. With coupled decay, the weight decay is added before the moments instead.

  Attributes:
    name: Optimizer: "adam", "adamw", "sgd" or "muon". "adam" and "adamw" are the same here, since `coupled_decay`
      selects the kind of weight decay. "muon" updates kernels by orthogonalized momentum (optax.contrib), scaled to the
      size of Adam's updates (arXiv:2502.16982), and all other parameters by Adam.
    learning_rate: Peak learning rate of the schedule.
    schedule: Schedule of the learning rate over the progress of a phase: "constant", "cosine", "linear" or "one_cycle";
      "step" lowers it at fixed times, "plateau" when the validation metric stops improving.
    warmup: Fraction of the phase over which the learning rate rises from 0.
    decay_factor: Factor by which "step" and "plateau" multiply the learning rate.
    decay_start: Fraction of the phase before the first interval of "step".
    decay_every: Length of an interval of "step", as a fraction of the phase; the rate is lowered at the end of each.
    decay_patience: Number of consecutive evaluations without improvement after which "plateau" lowers the rate.
    weight_decay: Weight decay, applied to kernels (ndim > 1) only.
    coupled_decay: Whether to add the decay to the gradient, so that it passes through the moments, as in PyTorch's Adam
      and SGD. Otherwise it is decoupled from them (arXiv:1711.05101). SGD's momentum amplifies coupled decay by
      1 / (1 - momentum).
    momentum: Momentum of SGD and Muon (Nesterov).
    b1: Decay rate of Adam's first moment.
    b2: Decay rate of Adam's second moment.
    clip_norm: Maximum global norm of the gradient; 0 disables clipping.
    centralize: Location of gradient centralization (arXiv:2004.01461): "gradient", before the moments, or "direction",
      after them and after the weight decay; "" disables it.
    centralize_conv_only: Whether to centralize only kernels with four or more axes.
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
      raise ValueError(f"optimizer.warmup={self.warmup}: expected a fraction of the phase in [0, 1)")
    if self.schedule == "one_cycle" and self.warmup:
      raise ValueError(f"optimizer.warmup={self.warmup}: expected 0 with schedule=one_cycle, which has its own warmup")
    if not 0 < self.decay_factor <= 1:
      raise ValueError(f"optimizer.decay_factor={self.decay_factor}: expected a number in (0, 1]")
    if not 0 <= self.decay_start < 1:
      raise ValueError(f"optimizer.decay_start={self.decay_start}: expected a fraction of the phase in [0, 1)")
    if not 0 < self.decay_every <= 1:
      raise ValueError(f"optimizer.decay_every={self.decay_every}: expected a fraction of the phase in (0, 1]")
    if self.decay_patience < 1:
      raise ValueError(f"optimizer.decay_patience={self.decay_patience}: expected a number of evaluations, 1 or more")

  def schedule_factor(self, progress: jax.Array) -> jax.typing.ArrayLike:
    """Returns the factor of the peak learning rate at `progress` in [0, 1].

    The reductions of a plateau are not included; see `lr_factor_at`.
    """
    return with_warmup(self._schedule(), self.warmup)(progress)

  def lr_factor_at(self, evaluations: int) -> float:
    """Returns the factor to apply to the learning rate after an evaluation: below 1 if a plateau exceeds the patience.

    Args:
      evaluations: Number of consecutive evaluations without improvement, this one included.

    Returns:
      `decay_factor` after each `decay_patience` evaluations without improvement if the schedule is "plateau", else 1.
    """
    on_plateau = self.schedule == "plateau" and evaluations > 0 and evaluations % self.decay_patience == 0
    return self.decay_factor if on_plateau else 1.0

  def build(self) -> optax.GradientTransformationExtraArgs:
    """Returns the optax chain.

    Its `update` takes the extra arguments `progress` and `lr_scale`; see `scale_by_progress`.
    """
    chain: list[Any] = []
    centralization = centralize_gradients(conv_only=self.centralize_conv_only)
    if self.clip_norm:
      # Flattened: the norm of one array takes one kernel on a GPU, and not one for each parameter.
      chain.append(optax.flatten(optax.clip_by_global_norm(self.clip_norm)))
    decay = optax.add_decayed_weights(self.weight_decay, mask=_kernels)
    # Coupled decay is part of the gradient that the moments accumulate.
    if self.weight_decay and self.coupled_decay:
      chain.append(decay)
    if self.centralize == "gradient":
      chain.append(centralization)
    chain.append(self._direction())
    # Decoupled decay is added to the direction and is scaled only by the learning rate.
    if self.weight_decay and not self.coupled_decay:
      chain.append(decay)
    # Last, so that the update has zero mean with weight decay included.
    if self.centralize == "direction":
      chain.append(centralization)
    chain.append(scale_by_progress(self.learning_rate, self.schedule_factor))
    return optax.chain(*chain)

  def _direction(self) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=self.b1, b2=self.b2)
    match self.name:
      case "sgd":
        return optax.trace(decay=self.momentum, nesterov=True)
      case "muon":
        orthogonalized = optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=_as_matrices)
        muon = optax.chain(orthogonalized, optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adam, updates)))
        # Muon is defined for matrices; biases and norm parameters use Adam.
        return optax.partition({True: muon, False: adam}, _kernels)
      case _:
        return adam

  def _schedule(self) -> optax.Schedule:
    if self.schedule == "step":
      return stepwise(self.decay_start, self.decay_every, self.decay_factor)
    return SCHEDULES[self.schedule]


def _kernels(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _as_matrices(params: Any) -> Any:
  """Returns Muon's view of each kernel as a matrix: the last axis is the output, all others are inputs."""

  # The tuple names the axes merged into the input dimension, for example (0, 1, 2) for [h, w, I, O].
  def dimensions(kernel: Any) -> optax.contrib.MuonDimensionNumbers:
    return optax.contrib.MuonDimensionNumbers(tuple(range(kernel.ndim - 1)), kernel.ndim - 1)

  return jax.tree.map(dimensions, params)


def _as_large_as_adam(update: jax.Array) -> jax.Array:
  """Scales an orthogonalized update to the typical root mean square of an update of Adam.

  The entries of an orthogonal matrix have the root mean square 1 / sqrt(longer side).
  """
  # Treat the kernel as a matrix of (all input axes) x outputs.
  return update * (_ADAM_RMS * math.sqrt(max(math.prod(update.shape[:-1]), update.shape[-1])))
