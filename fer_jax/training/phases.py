"""The phases of a run: each has its own trainable layers, objective, optimiser and duration."""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fer_jax.config.settings import Settings
from fer_jax.models.network import Network, Tree
from fer_jax.runtime.errors import UserError
from fer_jax.training.step import TrainState, TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase with its training step, which is not compiled yet.

  Attributes:
    name: Name of the phase in the config.
    trainable: Names of the trainable layers.
    optimizer: Optimiser of the parameters of the trainable layers.
    learning_rate: Function progress in [0, 1] -> learning rate, for the log; it excludes the factor due to plateaus.
    lr_factor_at: Function number of evaluations without improvement -> factor of the learning rate.
    train_step: Pure function (state, resident, batch, context) -> (state, metrics).
    steps: Planned number of steps; a time budget may end the phase earlier.
    patience: Number of evaluations without improvement before the phase ends; 0 disables early stopping.
    watch: Validation metric that defines improvement, "accuracy" or "loss".
    averages: Whether moving averages of the trainable layers are computed.
    identity: Text that identifies everything the training step depends on except the shapes of its arguments.
  """

  name: str
  trainable: frozenset[str]
  optimizer: optax.GradientTransformationExtraArgs
  learning_rate: Callable[[float], float]
  lr_factor_at: Callable[[int], float]
  train_step: TrainStep
  steps: int
  patience: int
  watch: str
  averages: bool
  identity: str

  def initial_state(self, step: int, params: Tree, stats: Tree) -> TrainState:
    """Returns the state at the start of the phase, with a new optimiser state.

    Args:
      step: Number of steps since the start of the run.
      params: Parameters of all layers.
      stats: Batch statistics of all layers.
    """
    trained = {name: params[name] for name in params if name in self.trainable}
    average: Any = ()
    if self.averages:  # Copied: the step may donate the buffers of the state, and a buffer can be donated only once.
      average = jax.tree.map(jnp.copy, (trained, {name: stats[name] for name in trained}))
    return TrainState(jnp.asarray(step, jnp.int32), params, stats, self.optimizer.init(trained), average)

  def score(self, accuracy: float, loss: float) -> float:
    """Returns the value that defines improvement, larger is better: the accuracy or the negative loss."""
    return accuracy if self.watch == "accuracy" else -loss


def plan_phases(settings: Settings, network: Network, axis_name: str | None, epoch_rows: int) -> tuple[Phase, ...]:
  """Returns the phases of a run, in order.

  Args:
    settings: Settings of the run.
    network: Network to train.
    axis_name: Mapped axis of devices; None on one device.
    epoch_rows: Number of training rows in an epoch, for durations.

  Raises:
    UserError: The layers or the objective of a phase do not fit the network.
  """
  # Number of steps of the whole run; phase durations may be shares of it.
  whole = settings.duration.steps(1, epoch_rows, settings.batch_size)
  phases = []
  for name in settings.schedule:
    phase = settings.phases[name]
    trainable = _matching(network, phase.train, f"config.phases.{name}.train")
    try:
      objective = phase.objective.build(network, trainable, axis_name)
    except ValueError as error:
      raise UserError(f"config.phases.{name}.objective: {error}") from None
    # The identity contains everything that the trace of the step depends on; see `CachedProgram`.
    learning = (phase.objective, phase.optimizer, phase.average, sorted(trainable))
    optimizer = phase.optimizer.build()
    phases.append(
      Phase(
        name=name,
        trainable=trainable,
        optimizer=optimizer,
        learning_rate=_learning_rate(phase.optimizer),
        lr_factor_at=phase.optimizer.lr_factor_at,
        train_step=make_train_step(
          objective, optimizer, settings.augmentation, axis_name, mixing=settings.mixing, average=phase.average
        ),
        steps=phase.duration.steps(whole, epoch_rows, settings.batch_size),
        patience=phase.patience,
        watch=phase.watch,
        averages=bool(phase.average),
        identity=repr((settings.model, settings.precision, learning, settings.augmentation, settings.mixing)),
      )
    )
  return tuple(phases)


def _learning_rate(optimizer: Any) -> Callable[[float], float]:
  return lambda progress: optimizer.learning_rate * float(optimizer.schedule_factor(jnp.float32(progress)))


def _matching(network: Network, patterns: tuple[str, ...], key: str) -> frozenset[str]:
  """Returns the layers that match any of the patterns; raises UserError if a pattern matches no layer."""
  chosen: set[str] = set()
  for pattern in patterns:
    found = fnmatch.filter(network.layers, pattern)
    if not found:
      raise UserError(f"{key}: {pattern!r} matches no layer; the layers are {', '.join(network.layers)}")
    chosen.update(found)
  return frozenset(chosen)
