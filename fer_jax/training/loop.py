"""Training loop: trains one or several replicas (folds or seeds) together, from their first to their last step."""

import dataclasses
import math
import signal
import statistics
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from fer_jax.config.settings import Duration
from fer_jax.data.views import PROTOCOLS
from fer_jax.runtime import processes
from fer_jax.runtime.errors import Failure
from fer_jax.runtime.interruption import Interrupted, Signals
from fer_jax.training.checkpoint import Progress
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.evaluate import Evaluation
from fer_jax.training.initialization import Initialization
from fer_jax.training.phases import Phase
from fer_jax.training.replica_state import ReplicaState, restore, stopped_early
from fer_jax.training.run_log import Console, Stopwatch
from fer_jax.training.step import StepContext, TrainState


@dataclasses.dataclass
class FinalEvaluation:
  """Evaluation of one replica's best parameters after training.

  Attributes:
    views: Evaluations of the splits "validation" and "test", one per view; the first view is the image itself.
    notes: Remarks for the report, such as that the best checkpoint was unreadable.
  """

  views: dict[str, list[Evaluation]] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


class TrainingLoop:
  """Trains replicas together, resuming from the checkpoints in their folders.

  Args:
    compiled: Compiled run, shared by all replicas.
    initialization: Network and its initial variables.
    phases: Phases of the run, with their planned steps.
    epoch_rows: Number of training rows in an epoch.
    replicas: Replicas to train; at most as many as the placement of `compiled` supports.
    watch: Stopwatch, shared by all replicas.
    console: Console for progress lines.
    signals: Signal handler that requests a stop.
    deadlines: Seconds on `watch` at which each phase ends at the latest; empty without a time budget.
  """

  def __init__(
    self,
    compiled: CompiledRun,
    initialization: Initialization,
    phases: Sequence[Phase],
    epoch_rows: int,
    replicas: Sequence[ReplicaState],
    watch: Stopwatch,
    console: Console,
    signals: Signals,
    deadlines: Sequence[float] = (),
  ):
    self.compiled, self.phases, self.epoch_rows = compiled, tuple(phases), epoch_rows
    self.replicas, self.watch, self.console = tuple(replicas), watch, console
    self.settings, self.placement = compiled.settings, compiled.placement
    self._network = initialization.network
    self._signals, self._deadlines = signals, deadlines
    # Metrics of a step that are not logged yet: active replicas, step of the phase, progress of the phase, metrics.
    self._pending: tuple[Sequence[ReplicaState], int, float, Any] | None = None
    restored = restore(self.replicas, self.phases, initialization.shapes)
    self.state = self._start(initialization) if restored is None else self._resume(restored)

  def _start(self, initialization: Initialization) -> Any:
    """Returns the state of step 0, on the devices."""
    for each in self.replicas:
      each.progress.phase_seconds = self.watch.seconds  # preparation and compilation are not charged to the phase
      if initialization.loaded is not None:
        each.event(str(initialization.loaded.report))
    return self.compiled.initial_state(self.phases[0], [each.replica for each in self.replicas])

  def _resume(self, restored: Sequence[TrainState]) -> Any:
    """Returns the restored state, on the devices."""
    self.watch.seconds = max(each.progress.seconds for each in self.replicas)
    self.console.say(f"resumed from step {max(each.progress.step for each in self.replicas)}")
    return self.placement.put_states(restored)

  def train(self) -> None:
    """Runs the remaining phases."""
    while (number := self.replicas[0].progress.phase) < len(self.phases):
      phase = self.phases[number]
      with self.watch.timing("train"):
        self._run_phase(phase)
      if any(each.held is not None for each in self.replicas):  # back to the states at which they stopped
        self.state = self.placement.put_states(self._states())
      accuracies = self._validate(phase, self.replicas)
      self._next_phase()
      self._save(self.replicas, accuracies)

  def evaluate_best(self) -> list[FinalEvaluation]:
    """Evaluates the best parameters of each replica, once, on the test split and on the validation split.

    The best parameters are those of the step with the highest validation accuracy. Their validation probabilities are
    kept because TTA views and ensembles must be selected without the test split.
    """
    found = [FinalEvaluation() for _ in self.replicas]
    placed = self.placement.put_states(self._best_variables(found))
    for split in ("validation", "test"):
      for view in range(PROTOCOLS[self.settings.views]):
        for final, evaluation in zip(found, self._evaluate(split, placed, view), strict=True):
          final.views.setdefault(split, []).append(evaluation)
    tested = [final.views["test"][0] for final in found]
    for each, test in zip(self.replicas, tested, strict=True):
      each.log.evaluation("test", each.progress.best_step, self.phases[-1].name, test.accuracy, test.loss)
    self._say_evaluation("test", max(each.progress.best_step for each in self.replicas), tested)
    return found

  def _best_variables(self, found: Sequence[FinalEvaluation]) -> list[Any]:
    """Returns (params, stats) of each replica's best step, or of its last step if that checkpoint is unreadable."""
    variables: list[Any] = []
    states: list[TrainState] = []
    for number, (each, final) in enumerate(zip(self.replicas, found, strict=True)):
      try:
        if each.progress.best_step >= 0:
          variables.append(each.checkpoints.restore_variables(each.progress.best_step))
          continue
      except Exception as error:  # orbax has no common base class for errors of damaged files
        final.notes.append(
          f"checkpoint of the best step {each.progress.best_step} cannot be read; the last step was evaluated instead"
        )
        each.event(f"warning: {final.notes[0]} ({type(error).__name__})")
      states = states or self._states()
      variables.append(states[number].variables)
    return variables

  def _run_phase(self, phase: Phase) -> None:
    """Runs one phase, until its last step, its deadline, early stopping of all replicas, or a stop signal."""

    def interval(duration: Duration) -> int:
      return duration.steps(phase.steps, self.epoch_rows, self.settings.batch_size)

    log_every = interval(self.settings.log_every)
    evaluate_every, checkpoint_every = interval(self.settings.evaluate_every), interval(self.settings.checkpoint_every)
    metrics = None
    while active := [each for each in self.replicas if not stopped_early(each.progress, self.phases)]:
      at = active[0].progress  # all active replicas are at the same step of the phase
      progress = self._phase_progress(phase, at)
      if progress >= 1:
        break
      if (signum := self._signals.stop_requested()) is not None:
        self._log_pending(phase)
        self._stop_for_signal(signum, active)
      metrics = self._step(phase, active, progress)
      self._log_pending(phase)  # one step late: the device already runs the next step when the host blocks on metrics
      if at.phase_step % log_every == 0 or at.phase_step == 1:
        self._pending = (active, at.phase_step, progress, metrics)
      if at.phase_step % evaluate_every == 0 and at.phase_step < phase.steps:
        self._log_pending(phase)  # before validation, which may lower the learning rate that is logged
        self._save(active, self._validate(phase, active))
        self._hold_stopped(phase, active)
      elif at.phase_step % checkpoint_every == 0 and at.phase_step < phase.steps:  # `train` saves the last step
        self._require_finite_loss(active, jax.device_get(metrics))
        self._save(active, {})
    self._log_pending(phase)
    if metrics is not None:
      self._require_finite_loss(active, jax.device_get(metrics))
    if active and active[0].progress.phase_step < phase.steps:
      for each in active:
        each.stopped = "time budget"

  def _step(self, phase: Phase, active: Sequence[ReplicaState], progress: float) -> Any:
    """Takes one step of the active replicas; stopped replicas compute too, and the result is ignored."""
    batches = {each: next(each.iterator) for each in active}
    # The compiled step has a fixed number of replicas, so stopped ones need a batch too: that of an active one.
    filled = [batches.get(each, batches[active[0]]) for each in self.replicas]
    contexts = [
      StepContext(np.float32(progress), np.int32(each.replica.seed), np.float32(each.progress.lr_scale))
      for each in self.replicas
    ]
    self.state, metrics = self.compiled.train_step(phase, self.state, filled, contexts)
    for each in active:
      each.progress.step += 1
      each.progress.phase_step += 1
    return metrics

  def _hold_stopped(self, phase: Phase, active: Sequence[ReplicaState]) -> None:
    """Stores the states of replicas that have just stopped early, until the other replicas finish the phase."""
    stopped = [each for each in active if stopped_early(each.progress, self.phases)]
    states = self._states() if stopped else []
    for each in stopped:
      each.held, each.stopped = states[self.replicas.index(each)], "early stopping"
      each.event(f"phase {phase.name}: early stopping")

  def _phase_progress(self, phase: Phase, at: Progress) -> float:
    """Returns the completed share of a phase in [0, 1]: by steps, or by time if the deadline is closer."""
    by_steps = at.phase_step / phase.steps
    if not self._deadlines or not at.phase_step:  # at least one step per phase
      return by_steps
    end = self._deadlines[at.phase]
    by_clock = (self.watch.seconds - at.phase_seconds) / max(end - at.phase_seconds, 1e-3)
    return processes.broadcast(max(by_steps, by_clock))  # clocks differ, but all processes must take the same steps

  def _validate(self, phase: Phase, active: Sequence[ReplicaState]) -> dict[ReplicaState, float]:
    """Evaluates the validation split, updates the progress and returns the accuracies.

    Returns {} until a phase has trained the classifier.
    """
    reached = self.phases[: active[0].progress.phase + 1]
    if not any(self._network.classifier in each.trainable for each in reached):
      return {}
    evaluations = self._evaluate("validation", self.state.variables)
    found = {each: of for each, of in zip(self.replicas, evaluations, strict=True) if each in active}
    for each, evaluation in found.items():
      if not math.isfinite(evaluation.loss):
        self._diverged(each, "validation loss", evaluation.loss)
      progress, accuracy = each.progress, evaluation.accuracy
      each.log.evaluation("validation", progress.step, phase.name, accuracy, evaluation.loss)
      each.log.forget_rate()
      score = phase.score(accuracy, evaluation.loss)
      if progress.phase_best is None or score > progress.phase_best:
        progress.evals_without_improvement, progress.phase_best = 0, score
      else:
        progress.evals_without_improvement += 1
      progress.lr_scale *= phase.lr_factor_at(progress.evals_without_improvement)
      # A tie selects the later step, which is also the one that checkpoints keep.
      if accuracy >= progress.best_accuracy:
        progress.best_accuracy, progress.best_step = accuracy, progress.step
    self._say_evaluation("validation", max(each.progress.step for each in found), list(found.values()))
    return {each: evaluation.accuracy for each, evaluation in found.items()}

  def _evaluate(self, split: str, variables: Any, view: int = 0) -> list[Evaluation]:
    with self.watch.timing("evaluate"):
      return self.compiled.evaluate(variables, [each.replica for each in self.replicas], split, view)

  def _log_pending(self, phase: Phase) -> None:
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self._log(phase, *pending)

  def _log(
    self, phase: Phase, active: Sequence[ReplicaState], phase_step: int, progress: float, metrics: dict[str, jax.Array]
  ) -> None:
    fetched = jax.device_get(metrics)
    self._require_finite_loss(active, fetched)
    batch = self.settings.batch_size
    logged = []
    for each in active:
      values = {name: float(value) for name, value in self._part(fetched, each).items()}
      values["learning_rate"] = phase.learning_rate(progress) * each.progress.lr_scale
      logged.append(values)
      step = each.progress.step - each.progress.phase_step + phase_step
      each.log.train(step, step * batch / self.epoch_rows, phase.name, values, batch_size=batch)
    rate = active[0].log.images_per_second
    loss = statistics.fmean(values["loss"] for values in logged)
    accuracy = ""
    if "accuracy" in logged[0]:
      accuracy = f"  accuracy {statistics.fmean(values['accuracy'] for values in logged):.3f}"
    speed = f"  {len(active) * rate:,.0f} images/s" if rate is not None else ""
    several = f"  mean of {len(active)}:" if len(self.replicas) > 1 else ""
    self.console.progress(
      f"{phase.name} {100 * progress:3.0f} %  step {step}{several}  loss {loss:.4g}{accuracy}{speed}"
    )

  def _say_evaluation(self, split: str, step: int, found: Sequence[Evaluation]) -> None:
    accuracies = [each.accuracy for each in found]
    spread = f" ({min(accuracies):.4f} to {max(accuracies):.4f}, {len(found)} runs)" if len(found) > 1 else ""
    loss = statistics.fmean(each.loss for each in found)
    self.console.say(
      f"step {step}  {split} accuracy {statistics.fmean(accuracies):.4f}{spread}  loss {loss:.4f}  "
      f"({self.watch.seconds:.0f} s)"
    )

  def _part(self, tree: Any, replica: ReplicaState) -> Any:
    return self.placement.select_replica(tree, self.replicas.index(replica))

  def _states(self) -> list[TrainState]:
    """Returns the state of every replica, on the host."""
    fetched = jax.device_get(self.state)
    return [self._part(fetched, each) if each.held is None else each.held for each in self.replicas]

  def _require_finite_loss(self, active: Sequence[ReplicaState], metrics: dict[str, Any]) -> None:
    for each in active:
      loss = float(self._part(metrics, each)["loss"])
      if not math.isfinite(loss):
        self._diverged(each, "loss", loss)

  def _require_finite_state(self, active: Sequence[ReplicaState], states: Sequence[TrainState]) -> None:
    """Raises Failure for non-finite parameters; a finite loss only covers the parameters before its step."""
    for each in active:
      for path, leaf in jax.tree.leaves_with_path(states[self.replicas.index(each)].variables):
        if not np.isfinite(leaf).all():
          name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
          self._diverged(each, name, leaf[~np.isfinite(leaf)].flat[0])

  def _diverged(self, replica: ReplicaState, what: str, value: float) -> NoReturn:
    phase = self.phases[replica.progress.phase].name
    kept = replica.checkpoints.newest_step
    raise Failure(
      f"{replica.label}training diverged: {what} is {value} at step {replica.progress.step} in phase {phase}; lower "
      f"config.phases.{phase}.optimizer.learning_rate or set its clip_norm"
      + (f" (the checkpoint of step {kept} is kept)" if kept is not None else "")
    )

  def _next_phase(self) -> None:
    """Advances all replicas to the next phase, which starts with a new optimiser state."""
    states = self._states()
    self._require_finite_state(self.replicas, states)
    for each in self.replicas:
      each.held = None
      each.progress = dataclasses.replace(
        each.progress,
        phase=each.progress.phase + 1,
        phase_step=0,
        phase_seconds=self.watch.seconds,
        evals_without_improvement=0,
        phase_best=None,
        lr_scale=1.0,
      )
    if (number := self.replicas[0].progress.phase) < len(self.phases):
      initial_state = self.phases[number].initial_state
      self.state = self.placement.put_states(
        [initial_state(each.progress.step, *of.variables) for each, of in zip(self.replicas, states, strict=True)]
      )

  def _save(self, active: Sequence[ReplicaState], accuracies: dict[ReplicaState, float]) -> None:
    states = self._states()
    self._require_finite_state(active, states)
    for each in active:
      each.progress.seconds = self.watch.seconds
      state = states[self.replicas.index(each)]
      each.checkpoints.save(state, each.iterator, each.progress, accuracies.get(each))

  def _stop_for_signal(self, signum: int, active: Sequence[ReplicaState]) -> NoReturn:
    self._save(active, {})
    name, step = signal.Signals(signum).name, active[0].progress.step
    text = f"stopped by {name} at step {step}; run the same command to resume"
    for each in active:
      each.log.event(each.progress.step, text)
    self.console.say(text)
    raise Interrupted(signum, text)
