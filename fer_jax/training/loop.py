"""Training loop: trains one or several replicas (folds or seeds) in lockstep, from their first to their last step."""

import dataclasses
import functools
import math
import signal
import statistics
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from fer_jax.data import pipeline
from fer_jax.data.views import PROTOCOLS
from fer_jax.runtime import processes
from fer_jax.runtime.errors import Failure
from fer_jax.runtime.interruption import Interrupted, Signals
from fer_jax.training.checkpoint import Checkpoints, Clock, newest_common
from fer_jax.training.compiled_run import Rig
from fer_jax.training.evaluate import Evaluation
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Replica
from fer_jax.training.run_log import Console, RunLog, Stopwatch
from fer_jax.training.step import StepContext, TrainState
from fer_jax.training.workdir import Workdir


class Member:
  """State of one replica in the training loop.

  Args:
    replica: Seed and data of the replica.
    folder: Run folder of the replica.
    log: Metrics log of the replica.
    checkpoints: Checkpoints of the replica.
    rig: Compiled programs, shared by all replicas.
  """

  def __init__(self, replica: Replica, folder: Workdir, log: RunLog, checkpoints: Checkpoints, rig: Rig):
    self.replica, self.folder, self.log, self.checkpoints = replica, folder, log, checkpoints
    self.iterator = pipeline.training_iterator(rig.batches(replica))
    self.clock = Clock()
    self.stopped = "finished"  # or the reason why it took fewer steps than the config specifies
    self.held: TrainState | None = None  # host copy of its final state, while the other replicas continue

  @property
  def label(self) -> str:
    """Prefix of messages about this replica; empty if it is the only one of the run."""
    return f"{self.replica.name.replace('_', ' ')}: " if self.replica.name else ""


@dataclasses.dataclass
class Tested:
  """Evaluation of one replica's best parameters after training.

  Attributes:
    views: Evaluations of the splits "validation" and "test", one per view; the first view is the image itself.
    notes: Remarks for the report, such as that the best checkpoint was unreadable.
  """

  views: dict[str, list[Evaluation]] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


class TrainingLoop:
  """Trains replicas in lockstep, resuming from the checkpoints in their folders.

  Args:
    rig: Compiled programs, shared by all replicas.
    members: Replicas to train; at most as many as the placement of `rig` supports.
    watch: Stopwatch, shared by all replicas.
    console: Console for progress lines.
    signals: Signal handler that requests a stop.
    deadlines: Seconds on `watch` at which each phase ends at the latest; empty without a time budget.
  """

  def __init__(
    self,
    rig: Rig,
    members: Sequence[Member],
    watch: Stopwatch,
    console: Console,
    signals: Signals,
    deadlines: Sequence[float] = (),
  ):
    self.rig, self.members, self.watch, self.console = rig, tuple(members), watch, console
    self.settings, self.placement, self.phases = rig.settings, rig.placement, rig.phases
    self._signals, self._deadlines = signals, deadlines
    self._pending: tuple[Sequence[Member], int, float, Any] | None = None  # metrics of a step not logged yet
    self.state = self._restore()

  def train(self) -> None:
    """Runs the remaining phases."""
    while (number := self.members[0].clock.phase) < len(self.phases):
      phase = self.phases[number]
      with self.watch.timing("train"):
        self._run_phase(phase)
      if any(member.held is not None for member in self.members):  # back to the states at which they stopped
        self.state = self.placement.place(self._states())
      accuracies = self._validate(phase, self.members)
      self._next_phase()
      self._save(self.members, accuracies)

  def test(self) -> list[Tested]:
    """Evaluates the best parameters of each replica, once, on the test split and on the validation split.

    The best parameters are those of the step with the highest validation accuracy. Their validation probabilities are
    kept because TTA views and ensembles must be selected without the test split.
    """
    tested = [Tested() for _ in self.members]
    placed = self.placement.place(self._best_variables(tested))
    for split in ("validation", "test"):
      for view in range(PROTOCOLS[self.settings.views]):
        for of, evaluation in zip(tested, self._evaluate(split, placed, view), strict=True):
          of.views.setdefault(split, []).append(evaluation)
    for member, of in zip(self.members, tested, strict=True):
      test = of.views["test"][0]
      member.log.evaluation("test", member.clock.best_step, self.phases[-1].name, test.accuracy, test.loss)
    best = max(member.clock.best_step for member in self.members)
    self._say_evaluation("test", best, [of.views["test"][0] for of in tested])
    return tested

  def _best_variables(self, tested: Sequence[Tested]) -> list[Any]:
    """Returns (params, stats) of each replica's best step, or of its last step if that checkpoint is unreadable."""
    variables: list[Any] = []
    states: list[TrainState] = []
    for number, (member, of) in enumerate(zip(self.members, tested, strict=True)):
      try:
        if member.clock.best_step >= 0:
          variables.append(member.checkpoints.restore_variables(member.clock.best_step))
          continue
      except Exception as error:  # orbax has no common base class for errors of damaged files
        of.notes.append(
          f"checkpoint of the best step {member.clock.best_step} cannot be read; the last step was evaluated instead"
        )
        self._event(member, f"warning: {of.notes[0]} ({type(error).__name__})")
      states = states or self._states()
      variables.append(states[number].variables)
    return variables

  def _run_phase(self, phase: Phase) -> None:
    """Runs one phase, until its last step, its deadline, early stopping of all replicas, or a stop signal."""
    steps_of = functools.partial(_steps, phase.steps, self.rig.epoch_rows, self.settings.batch_size)
    log_every, evaluate_every, checkpoint_every = map(
      steps_of, (self.settings.log_every, self.settings.evaluate_every, self.settings.checkpoint_every)
    )
    metrics = None
    while active := [member for member in self.members if not self._waits(member.clock)]:
      clock = active[0].clock  # all active replicas are at the same step of the phase
      progress = self._progress(phase, clock)
      if progress >= 1:
        break
      if (signum := self._signals.asked_to_stop()) is not None:
        self._log_pending(phase)
        self._stop_for_signal(signum, active)
      metrics = self._step(phase, active, progress)
      self._log_pending(phase)  # one step late: the device already runs the next step when the host blocks on metrics
      if clock.phase_step % log_every == 0 or clock.phase_step == 1:
        self._pending = (active, clock.phase_step, progress, metrics)
      if clock.phase_step % evaluate_every == 0 and clock.phase_step < phase.steps:
        self._log_pending(phase)  # before validation, which may lower the learning rate that is logged
        self._save(active, self._validate(phase, active))
        self._hold(phase, active)
      elif clock.phase_step % checkpoint_every == 0 and clock.phase_step < phase.steps:  # `train` saves the last step
        self._require_finite(active, jax.device_get(metrics))
        self._save(active, {})
    self._log_pending(phase)
    if metrics is not None:
      self._require_finite(active, jax.device_get(metrics))
    if active and active[0].clock.phase_step < phase.steps:
      for member in active:
        member.stopped = "time budget"

  def _step(self, phase: Phase, active: Sequence[Member], progress: float) -> Any:
    """Takes one step of the active replicas; stopped replicas compute too, and the result is ignored."""
    batches = {member: next(member.iterator) for member in active}
    # The compiled step has a fixed number of replicas, so stopped ones need a batch too: that of an active one.
    filled = [batches.get(member, batches[active[0]]) for member in self.members]
    moments = [
      StepContext(np.float32(progress), np.int32(member.replica.seed), np.float32(member.clock.rate))
      for member in self.members
    ]
    self.state, metrics = self.rig.step(phase, self.state, filled, moments)
    for member in active:
      member.clock.step += 1
      member.clock.phase_step += 1
    return metrics

  def _waits(self, clock: Clock) -> bool:
    """Returns whether a replica has stopped early in its current phase."""
    if clock.phase >= len(self.phases):
      return False
    patience = self.phases[clock.phase].patience
    return bool(patience) and clock.phase_step > 0 and clock.worse >= patience

  def _hold(self, phase: Phase, active: Sequence[Member]) -> None:
    """Stores the states of replicas that have just stopped early, until the other replicas finish the phase."""
    stopped = [member for member in active if self._waits(member.clock)]
    states = self._states() if stopped else []
    for member in stopped:
      member.held, member.stopped = states[self.members.index(member)], "early stopping"
      self._event(member, f"phase {phase.name}: early stopping")

  def _progress(self, phase: Phase, clock: Clock) -> float:
    """Returns the completed share of a phase in [0, 1]: by steps, or by time if the deadline is closer."""
    by_steps = clock.phase_step / phase.steps
    if not self._deadlines or not clock.phase_step:  # at least one step per phase
      return by_steps
    begin, end = clock.phase_seconds, self._deadlines[clock.phase]
    by_clock = (self.watch.seconds - begin) / max(end - begin, 1e-3)
    return processes.agreed(max(by_steps, by_clock))  # clocks differ, but all processes must take the same steps

  def _validate(self, phase: Phase, those: Sequence[Member]) -> dict[Member, float]:
    """Evaluates the validation split and updates the clocks; returns {} until a phase has trained the classifier."""
    reached = self.phases[: those[0].clock.phase + 1]
    if not any(self.rig.network.classifier in each.trainable for each in reached):
      return {}
    everyone = self._evaluate("validation", self.state.variables)
    found = {member: each for member, each in zip(self.members, everyone, strict=True) if member in those}
    for member, evaluation in found.items():
      if not math.isfinite(evaluation.loss):
        self._diverged(member, "validation loss", evaluation.loss)
      clock, accuracy = member.clock, evaluation.accuracy
      member.log.evaluation("validation", clock.step, phase.name, accuracy, evaluation.loss)
      member.log.forget_rate()
      score = phase.score(accuracy, evaluation.loss)
      better = clock.phase_best is None or score > clock.phase_best
      clock.worse, clock.phase_best = (0, score) if better else (clock.worse + 1, clock.phase_best)
      clock.rate *= phase.lr_factor_at(clock.worse)
      if accuracy >= clock.best_accuracy:  # a tie selects the later step, which is also the one that checkpoints keep
        clock.best_accuracy, clock.best_step = accuracy, clock.step
    self._say_evaluation("validation", max(member.clock.step for member in found), list(found.values()))
    return {member: evaluation.accuracy for member, evaluation in found.items()}

  def _evaluate(self, split: str, variables: Any, view: int = 0) -> list[Evaluation]:
    with self.watch.timing("evaluate"):
      return self.rig.evaluate(variables, [member.replica for member in self.members], split, view)

  def _log_pending(self, phase: Phase) -> None:
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self._log(phase, *pending)

  def _log(
    self, phase: Phase, active: Sequence[Member], phase_step: int, progress: float, metrics: dict[str, jax.Array]
  ) -> None:
    fetched = jax.device_get(metrics)
    self._require_finite(active, fetched)
    batch = self.settings.batch_size
    for member in active:
      values = {name: float(value) for name, value in self._part(fetched, member).items()}
      values["learning_rate"] = phase.learning_rate(progress) * member.clock.rate
      step = member.clock.step - member.clock.phase_step + phase_step
      member.log.train(step, step * batch / self.rig.epoch_rows, phase.name, values, batch_size=batch)
    mean = {
      name: statistics.fmean(float(self._part(fetched, member)[name]) for member in active)
      for name in ("loss", "accuracy")
      if name in fetched
    }
    rate = active[0].log.images_per_second
    accuracy = f"  accuracy {mean['accuracy']:.3f}" if "accuracy" in mean else ""
    speed = f"  {len(active) * rate:,.0f} images/s" if rate is not None else ""
    several = f"  mean of {len(active)}:" if len(self.members) > 1 else ""
    self.console.progress(
      f"{phase.name} {100 * progress:3.0f} %  step {step}{several}  loss {mean['loss']:.4g}{accuracy}{speed}"
    )

  def _say_evaluation(self, split: str, step: int, found: Sequence[Evaluation]) -> None:
    accuracies = [each.accuracy for each in found]
    spread = f" ({min(accuracies):.4f} to {max(accuracies):.4f}, {len(found)} runs)" if len(found) > 1 else ""
    loss = statistics.fmean(each.loss for each in found)
    self.console.say(
      f"step {step}  {split} accuracy {statistics.fmean(accuracies):.4f}{spread}  loss {loss:.4f}  "
      f"({self.watch.seconds:.0f} s)"
    )

  def _part(self, tree: Any, member: Member) -> Any:
    return self.placement.take(tree, self.members.index(member))

  def _states(self) -> list[TrainState]:
    """Returns the state of every replica, on the host."""
    fetched = jax.device_get(self.state)
    return [self._part(fetched, member) if member.held is None else member.held for member in self.members]

  def _require_finite(self, those: Sequence[Member], metrics: dict[str, Any]) -> None:
    for member in those:
      loss = float(self._part(metrics, member)["loss"])
      if not math.isfinite(loss):
        self._diverged(member, "loss", loss)

  def _diverged(self, member: Member, what: str, value: float) -> NoReturn:
    phase = self.phases[member.clock.phase].name
    kept = member.checkpoints.newest_step
    raise Failure(
      f"{member.label}training diverged: {what} is {value} at step {member.clock.step} in phase {phase}; lower "
      f"config.phases.{phase}.optimizer.learning_rate or set its clip_norm"
      + (f" (the checkpoint of step {kept} is kept)" if kept is not None else "")
    )

  def _require_finite_state(self, those: Sequence[Member], states: Sequence[TrainState]) -> None:
    """Raises Failure for non-finite parameters; a finite loss only covers the parameters before its step."""
    for member in those:
      params, stats = states[self.members.index(member)].variables
      for path, leaf in jax.tree.leaves_with_path((params, stats)):
        if not np.isfinite(leaf).all():
          name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
          self._diverged(member, name, leaf[~np.isfinite(leaf)].flat[0])

  def _next_phase(self) -> None:
    """Advances the clocks to the next phase, which starts with a new optimiser state."""
    states = self._states()
    self._require_finite_state(self.members, states)
    for member in self.members:
      clock = member.clock
      clock.phase, clock.phase_step, clock.phase_seconds = clock.phase + 1, 0, self.watch.seconds
      clock.worse, clock.phase_best, clock.rate, member.held = 0, None, 1.0, None
    if (number := self.members[0].clock.phase) < len(self.phases):
      begin = self.phases[number].begin
      self.state = self.placement.place(
        [begin(member.clock.step, *state.variables) for member, state in zip(self.members, states, strict=True)]
      )

  def _save(self, those: Sequence[Member], accuracies: dict[Member, float]) -> None:
    states = self._states()
    self._require_finite_state(those, states)
    for member in those:
      member.clock.seconds = self.watch.seconds
      state = states[self.members.index(member)]
      member.checkpoints.save(state, member.iterator, member.clock, accuracies.get(member))

  def _stop_for_signal(self, signum: int, active: Sequence[Member]) -> NoReturn:
    self._save(active, {})
    text = f"stopped by {signal.Signals(signum).name} at step {active[0].clock.step}; run the same command to resume"
    for member in active:
      member.log.event(member.clock.step, text)
    self.console.say(text)
    raise Interrupted(signum, text)

  def _event(self, member: Member, text: str) -> None:
    member.log.event(member.clock.step, text)
    self.console.say(f"{member.label}{text}")

  def _restore(self) -> Any:
    """Returns the placed state to start from: that of step 0, or a restored one with its iterators and clocks."""
    restored = [self._newest(member) for member in self.members]
    # A process killed while saving leaves replicas at different steps: go back to the newest step that all have.
    while any(each is not None for each in restored):
      clocks = [{} if each is None else {each[1].step: each[1]} for each in restored]
      if newest_common(clocks, self._waits) is not None:
        break
      steps = newest_common([member.checkpoints.clocks() for member in self.members], self._waits)
      for number, member in enumerate(self.members):
        member.checkpoints.forget_after(-1 if steps is None else steps[number])
      restored = [self._newest(member) for member in self.members]
    found = [each for each in restored if each is not None]
    if not found:
      return self._begin()
    for member, (state, clock) in zip(self.members, found, strict=True):
      member.clock = clock
      if self._waits(clock):
        member.held, member.stopped = state, "early stopping"
      member.log.event(clock.step, f"resumed from step {clock.step}")
    self.watch.seconds = max(member.clock.seconds for member in self.members)
    self.console.say(f"resumed from step {max(member.clock.step for member in self.members)}")
    return self.placement.place([state for state, _ in found])

  def _newest(self, member: Member) -> tuple[TrainState, Clock] | None:
    def warn(text: str) -> None:
      self._event(member, f"warning: {text}")

    return member.checkpoints.restore_newest(self._shapes, member.iterator, warn)

  def _shapes(self, clock: Clock) -> TrainState:
    """Returns the shapes of a replica's state; phases differ in the shapes of their optimiser state."""
    phase = self.phases[min(clock.phase, len(self.phases) - 1)]
    return jax.eval_shape(functools.partial(phase.begin, 0), *self.rig.beginning.shapes)

  def _begin(self) -> Any:
    """Returns the placed state of step 0."""
    for member in self.members:  # time spent on preparation and compilation is not charged to the phase
      member.clock.phase_seconds = self.watch.seconds
    if (loaded := self.rig.beginning.loaded) is not None:
      for member in self.members:
        self._event(member, str(loaded.report))
    return self.rig.begin([member.replica for member in self.members])


def _steps(whole: int, rows: int, batch_size: int, duration: Any) -> int:
  return duration.steps(whole, rows, batch_size)
