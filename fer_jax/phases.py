"""A training run is a sequence of phases: which layers learn, by what objective and optimiser, for how long."""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fer_jax.errors import UserError
from fer_jax.models.network import Network, Tree
from fer_jax.parallel import Placement
from fer_jax.settings import Settings
from fer_jax.step import TrainState, make_train_step


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase, ready to run.

  Attributes:
    name: as in the config.
    trainable: the layers that learn.
    optimizer: over their parameters alone.
    learning_rate: progress in [0, 1] -> learning rate, for the log; what plateaus make of it comes on top.
    lower_rate: evaluations without improvement -> what the learning rate is multiplied by.
    step: compiled (state, resident, batch, moment) -> (state, metrics).
    steps: planned; a time budget may end the phase before.
    patience: evaluations without improvement before it ends early; 0 never.
    watch: what improvement is measured by, the validation split's "accuracy" or "loss".
    averages: whether moving averages are kept of what is learned.
    identity: all that the step depends on, but for its arguments' shapes, in words.
  """

  name: str
  trainable: frozenset[str]
  optimizer: optax.GradientTransformationExtraArgs
  learning_rate: Callable[[float], float]
  lower_rate: Callable[[int], float]
  step: Callable[..., Any]
  steps: int
  patience: int
  watch: str
  averages: bool
  identity: str

  def begin(self, step: int, params: Tree, stats: Tree) -> TrainState:
    """Returns the state at the phase's start: the parameters so far, a fresh optimiser."""
    trained = {name: params[name] for name in params if name in self.trainable}
    average: Any = ()
    if self.averages:  # copied: a step is given the state's buffers to write to, and may not be given one twice
      average = jax.tree.map(jnp.copy, (trained, {name: stats[name] for name in trained}))
    return TrainState(jnp.asarray(step, jnp.int32), params, stats, self.optimizer.init(trained), average)

  def score(self, accuracy: float, loss: float) -> float:
    """Returns what improvement is measured by; the larger, the better."""
    return accuracy if self.watch == "accuracy" else -loss


def plan(settings: Settings, network: Network, placement: Placement, rows: int) -> tuple[Phase, ...]:
  """Returns the run's phases.

  Args:
    settings: of the run.
    network: that will learn.
    placement: that the steps are compiled for.
    rows: of an epoch, for durations.

  Raises:
    UserError: a phase's layers or its objective do not fit the network.
  """
  whole = settings.duration.steps(1, rows, settings.batch_size)
  phases = []
  for name in settings.schedule:
    phase = settings.phases[name]
    trainable = _matching(network, phase.train, f"config.phases.{name}.train")
    try:
      objective = phase.objective.build(network, trainable, placement.axis_name)
    except ValueError as error:
      raise UserError(f"config.phases.{name}.objective: {error}") from None
    learning = (phase.objective, phase.optimizer, phase.average, sorted(trainable))
    identity = repr((settings.model, settings.precision, learning, settings.augmentation, settings.mixing))
    optimizer = phase.optimizer.build()
    step = make_train_step(
      objective,
      optimizer,
      settings.augmentation,
      placement.axis_name,
      mixing=settings.mixing,
      average=phase.average,
    )
    phases.append(
      Phase(
        name=name,
        trainable=trainable,
        optimizer=optimizer,
        learning_rate=_learning_rate(phase.optimizer),
        lower_rate=phase.optimizer.lower_rate,
        step=placement.compile_train(step, f"training {identity}"),
        steps=phase.duration.steps(whole, rows, settings.batch_size),
        patience=phase.patience,
        watch=phase.watch,
        averages=bool(phase.average),
        identity=identity,
      )
    )
  return tuple(phases)


def _learning_rate(optimizer: Any) -> Callable[[float], float]:
  return lambda progress: optimizer.learning_rate * float(optimizer.schedule_factor(jnp.float32(progress)))


def _matching(network: Network, patterns: tuple[str, ...], key: str) -> frozenset[str]:
  """Returns the layers that match any of the patterns; raises UserError for one that matches nothing."""
  chosen: set[str] = set()
  for pattern in patterns:
    found = fnmatch.filter(network.layers, pattern)
    if not found:
      raise UserError(f"{key}: {pattern!r} matches no layer; the layers are {', '.join(network.layers)}")
    chosen.update(found)
  return frozenset(chosen)
