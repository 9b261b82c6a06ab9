"""State of one replica in the training loop, and its restoration from checkpoints."""

import functools
from collections.abc import Sequence

import jax

from fer_jax.data import pipeline
from fer_jax.models.network import Tree
from fer_jax.training.checkpoint import Checkpoints, Progress, newest_common
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Replica
from fer_jax.training.run_log import Console, RunLog
from fer_jax.training.step import TrainState
from fer_jax.training.workdir import Workdir


class ReplicaState:
  """State of one replica in the training loop, except its training state, which is on the devices.

  Args:
    replica: Seed and data of the replica.
    folder: Run folder of the replica.
    log: Metrics log of the replica.
    checkpoints: Checkpoints of the replica.
    compiled: Compiled run, shared by all replicas.
    console: Console for progress lines, shared by all replicas.

  Attributes:
    iterator: Iterator over the training batches.
    progress: Steps, best accuracy and plateau reductions so far.
    stopped: Reason for the end of training: "finished", or why it took fewer steps than the config specifies.
    held: Final training state of a phase that this replica has left early, on the host; None while it trains.
  """

  def __init__(
    self,
    replica: Replica,
    folder: Workdir,
    log: RunLog,
    checkpoints: Checkpoints,
    compiled: CompiledRun,
    console: Console,
  ):
    self.replica, self.folder, self.log, self.checkpoints = replica, folder, log, checkpoints
    self.iterator = pipeline.training_iterator(compiled.batches(replica))
    self.progress = Progress()
    self.stopped = "finished"
    self.held: TrainState | None = None
    self._console = console

  @property
  def label(self) -> str:
    """Prefix of messages about this replica; empty if it is the only one of the run."""
    return f"{self.replica.name.replace('_', ' ')}: " if self.replica.name else ""

  def event(self, text: str) -> None:
    """Logs and prints a message about this replica."""
    self.log.event(self.progress.step, text)
    self._console.say(f"{self.label}{text}")


def stopped_early(progress: Progress, phases: Sequence[Phase]) -> bool:
  """Returns whether a replica with this progress has stopped early in its current phase."""
  if progress.phase >= len(phases):
    return False
  patience = phases[progress.phase].patience
  return bool(patience) and progress.phase_step > 0 and progress.evals_without_improvement >= patience


def restore(
  replicas: Sequence[ReplicaState], phases: Sequence[Phase], shapes: tuple[Tree, Tree]
) -> list[TrainState] | None:
  """Restores the replicas from the newest checkpoints that they can resume from together.

  Args:
    replicas: Replicas; their progress, iterators and `held` are set.
    phases: Phases of the run.
    shapes: Shapes of (params, stats).

  Returns:
    Training state of each replica, on the host; None if there are no checkpoints.
  """
  waits = functools.partial(stopped_early, phases=phases)

  def state_for(progress: Progress) -> TrainState:
    # Phases differ in the shapes of their optimiser state.
    phase = phases[min(progress.phase, len(phases) - 1)]
    return jax.eval_shape(functools.partial(phase.initial_state, 0), *shapes)

  def newest(each: ReplicaState) -> tuple[TrainState, Progress] | None:
    return each.checkpoints.restore_newest(state_for, each.iterator, lambda text: each.event(f"warning: {text}"))

  restored = [newest(each) for each in replicas]
  # A process killed while saving leaves replicas at different steps: go back to the newest step that all have.
  while any(found is not None for found in restored):
    if newest_common([{} if found is None else {found[1].step: found[1]} for found in restored], waits) is not None:
      break
    steps = newest_common([each.checkpoints.progress_by_step() for each in replicas], waits)
    for number, each in enumerate(replicas):
      each.checkpoints.forget_after(-1 if steps is None else steps[number])
    restored = [newest(each) for each in replicas]
  found = [each for each in restored if each is not None]
  if not found:
    return None
  for each, (state, progress) in zip(replicas, found, strict=True):
    each.progress = progress
    if waits(progress):
      each.held, each.stopped = state, "early stopping"
    each.log.event(progress.step, f"resumed from step {progress.step}")
  return [state for state, _ in found]
