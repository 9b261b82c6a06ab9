"""A complete run: data, training, evaluation, checkpoints and results. Defines the order of all side effects."""

import contextlib
import copy
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fer_jax.config.parsing import parse
from fer_jax.config.settings import CLOCKS, Settings
from fer_jax.runtime import processes, provenance, xla
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.interruption import Signals
from fer_jax.runtime.parallel import Devices, Placement, Replicas, all_devices
from fer_jax.training import phases, replicas, results
from fer_jax.training.checkpoint import Checkpoints
from fer_jax.training.compiled_run import Rig, Trial
from fer_jax.training.initialization import initialize
from fer_jax.training.loop import Member, TrainingLoop
from fer_jax.training.pace import Pace, final_evaluations
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Choice, Replica
from fer_jax.training.run_log import Console, RunLog, Stopwatch
from fer_jax.training.workdir import Workdir

REPLICAS = "replicas"  # subfolder that holds the folders of the replicas
_CHOICE = "choice.json"  # replica strategy, kept so that a resumed run uses the same one
_BUDGET = "budget.json"  # number of steps of each phase that fits in the time budget


def train_and_evaluate(
  config: ConfigDict,
  workdir: Path,
  source: str = "",
  overrides: Sequence[str] = (),
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Trains a config to completion, evaluates the test split once and writes the results.

  A call with the config and folder of an interrupted run resumes from the newest checkpoint; a call with those of a
  finished run returns its result. Each of several replicas has its own folder in `workdir/replicas`, with the same
  contents as if it had been trained alone.

  Args:
    config: Config of the run; see `fer_jax.config.settings.Settings`.
    workdir: Folder of the run; created if absent.
    source: Config file and variant that the config was read from; recorded in the results.
    overrides: Command-line overrides already applied to the config; recorded in the results.
    devices: Devices to train on; default all devices of all processes.

  Returns:
    Content of result.json.

  Raises:
    UserError: The config, the data or the folder is invalid; nothing has been written.
    Failure: The training diverged.
    Interrupted: SIGINT or SIGTERM was received; the state is saved.
  """
  settings = parse(config)
  now = CLOCKS[settings.clock]
  started = now()
  xla.prepare()
  with Workdir(workdir, writes=processes.index() == 0) as folder:
    processes.first(lambda: folder.check(config))  # fails before the data is prepared, which may take long
    if folder.result is not None:
      Console(silent=not folder.writes).say(f"{workdir} contains a finished run; returning its result")
      return folder.result
    # Must precede `replicas.plan`, which may initialise the backend to augment images: the number of virtual CPU
    # devices (one per core) cannot be changed afterwards.
    found = list(devices or all_devices(settings.replicas or provenance.cores()))
    plan = processes.after_first(lambda: replicas.plan(settings))
    data = plan.replicas[0].arrays.fingerprint
    if others := processes.differing(data):
      raise UserError(
        f"{settings.data.name} differs between processes: process {others[0]} has other data than process 0; prepare "
        "identical data on all machines, or use a shared disk"
      )
    if processes.count() > 1 and len(plan.replicas) > 1:
      raise UserError(
        f"config.replicas: {len(plan.replicas)} replicas require a single process, but there are {processes.count()}; "
        "start one process with all devices, or one run per replica (launch/sweep.py)"
      )
    one_fold = devices is None and len(plan.replicas) == 1 and not settings.replicas
    if one_fold and found[0].platform == "cpu" and processes.count() == 1:
      found = found[:1]  # a single remaining fold: its steps already use all cores
    run = _Run(config, settings, plan, found, source, overrides, folder)
    processes.first(lambda: folder.claim(config, source, overrides, provenance.device(found), data))
    if plan.folds is not None and folder.writes:
      plan.folds.save(workdir / "splits.json")
    with Signals() as signals:
      watch = Stopwatch(now() - started, now)
      return run.alone(signals, watch) if len(plan.replicas) == 1 else run.together(signals, watch)


class _Run:
  """A run of one or several replicas; the constructor validates the config before anything is written."""

  def __init__(
    self,
    config: ConfigDict,
    settings: Settings,
    plan: replicas.Plan,
    devices: list[jax.Device],
    source: str,
    overrides: Sequence[str],
    folder: Workdir,
  ):
    self.config, self.settings, self.plan, self.devices = config, settings, plan, devices
    self.source, self.overrides, self.folder = source, overrides, folder
    arrays = plan.replicas[0].arrays
    data_parallel = Devices(devices)
    if len(plan.replicas) == 1:
      data_parallel.check_batch(settings.batch_size, "config.batch_size")
      data_parallel.check_batch(settings.eval_batch_size, "config.eval_batch_size")
    axis_name = data_parallel.axis_name if len(plan.replicas) == 1 else None
    self.beginning = initialize(settings, arrays.image.shape[1:], arrays.num_classes, axis_name)
    # Built here only to raise errors in phase settings early, and for the planned number of steps.
    self.steps = [
      phase.steps for phase in phases.plan(settings, self.beginning.network, data_parallel, plan.epoch_rows)
    ]
    # Recorded at the start, because the checkout may change during the run.
    self.origin = {
      "config": source,
      "device": provenance.device(devices),
      "processes": processes.count(),
      "versions": provenance.versions(),
      "commit": provenance.commit(),
    }

  def alone(self, signals: Signals, watch: Stopwatch) -> dict[str, Any]:
    """Trains the only replica, data-parallel over all devices; returns its result."""
    with watch.timing("prepare"):
      rig = self._rig(Devices(self.devices))
      pace = self._measure(rig, self.plan.replicas, watch)
    console = Console(silent=not self.folder.writes)
    deadlines = pace.deadlines(self.steps, self._left(watch), begin=watch.seconds) if pace else ()
    (result,) = self._train(rig, self.plan.replicas, [self.folder], watch, console, signals, deadlines)
    return result

  def together(self, signals: Signals, watch: Stopwatch) -> dict[str, Any]:
    """Trains all replicas, several at a time where that is faster; returns their combined result."""
    console = Console()
    places = {each.name: Workdir(self.folder.path / REPLICAS / each.name) for each in self.plan.replicas}
    with contextlib.ExitStack() as stack, RunLog(self.folder.path, watch) as log:
      folders = {name: stack.enter_context(place) for name, place in places.items()}

      def say(text: str) -> None:
        log.event(0, text)
        console.say(text)

      with watch.timing("prepare"):
        choice, rig = self._choose()
      say(f"{len(self.plan.replicas)} runs, {choice.together} at a time ({choice.strategy}: {choice.reason})")
      waves = replicas.waves(self.plan.replicas, choice.together)
      prepared = self._in_waves(rig, waves, folders, watch, console, signals, say)
      result = results.together(list(folders), [each.result or {} for each in folders.values()])
      planned = self._planned() or {"steps": [], "note": ""}
      if unequal := results.unequal_steps(result["runs"], sum(planned["steps"])):
        say(unequal)
    results.pool_predictions(list(folders.values()), self.folder)
    # Of replicas trained together, the slowest counts once; waves run one after the other, so their times add up.
    seconds = prepared + sum(_seconds(each, folders) for each in waves)
    folds = self.plan.folds
    result |= {
      "seconds": seconds,
      "time": watch.times,
      "strategy": choice._asdict(),
      "folds": None if folds is None else {"by": folds.by, "count": folds.count, "seed": folds.seed},
      **self.origin,
    }
    notes = [*(folds.notes if folds is not None else ()), planned["note"], unequal]
    result["notes"] = [*result["notes"], *filter(None, notes)]
    self.folder.write_json("result.json", result)
    console.say(
      f"{len(folders)} runs: mean accuracy {result['mean']:.4f}, standard deviation "
      f"{statistics.stdev(each['accuracy'] for each in result['runs']):.4f}"
    )
    return result

  def _in_waves(
    self,
    rig: Rig,
    waves: Sequence[Sequence[Replica]],
    folders: Mapping[str, Workdir],
    watch: Stopwatch,
    console: Console,
    signals: Signals,
    say: Callable[[str], None],
  ) -> float:
    """Trains the unfinished waves one after the other.

    Args:
      rig: Compiled programs for replicas that train together.
      waves: Groups of replicas that train together, in order.
      folders: Run folders of the replicas, by replica name.
      watch: Stopwatch of the whole run.
      console: Console for progress lines.
      signals: Signal handler that requests a stop.
      say: Function that logs and prints a line.

    Returns:
      Seconds of preparation before the first wave.
    """
    left = [wave for wave in waves if any(folders[each.name].result is None for each in wave)]
    with watch.timing("prepare"):
      pace = self._measure(rig, left[0], watch) if left else None
    several = len(waves) > 1
    if pace and several:
      rig = _with_phases(rig, self._fit(rig.phases, pace, len(waves), watch, say))
    prepared, steps = watch.seconds, [phase.steps for phase in rig.phases]
    # Waves that an earlier process finished are skipped but counted in the displayed number.
    for number, wave in enumerate(left):
      names = ", ".join(each.name.replace("_", " ") for each in wave)
      console.say(f"{names}  ({len(waves) - len(left) + number + 1} of {len(waves)})")
      for each in wave:
        self._claim(each, folders[each.name])
      # A single wave is limited by its deadlines alone; with several, `_fit` has reduced the steps to fit the budget.
      waiting = len(left) - number if several else 0
      deadlines = pace.deadlines(steps, self._left(watch), waiting) if pace else ()
      its_watch = Stopwatch(now=CLOCKS[self.settings.clock])
      self._train(rig, wave, [folders[each.name] for each in wave], its_watch, console, signals, deadlines)
      watch.include(its_watch)
    return prepared

  def _train(
    self,
    rig: Rig,
    group: Sequence[Replica],
    folders: Sequence[Workdir],
    watch: Stopwatch,
    console: Console,
    signals: Signals,
    deadlines: Sequence[float],
  ) -> list[dict[str, Any]]:
    """Trains a group of replicas together, from their first step to their results.

    Args:
      rig: Compiled programs for this group.
      group: Replicas to train.
      folders: Run folder of each replica.
      watch: Stopwatch of the group.
      console: Console for progress lines.
      signals: Signal handler that requests a stop.
      deadlines: Seconds on `watch` at which each phase ends at the latest; empty without a time budget.

    Returns:
      Results of the replicas, in the order of `group`.
    """
    with contextlib.ExitStack() as stack:
      members = []
      for each, folder in zip(group, folders, strict=True):
        log = stack.enter_context(RunLog(folder.path, watch, silent=not folder.writes))
        checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints"))
        members.append(Member(each, folder, log, checkpoints, rig))
        stack.callback(members[-1].iterator.close)
        if [phase.steps for phase in rig.phases] != self.steps:
          members[-1].stopped = "time budget"  # `_fit` has shortened the phases
      run = TrainingLoop(rig, members, watch, console, signals, deadlines)
      run.train()
      found = []
      for number, (member, tested) in enumerate(zip(members, run.test(), strict=True)):
        answers = results.answers(member, tested)
        results.write_predictions(member, answers, self.settings, rig.image_id)
        found.append(results.of_training(run, number, answers, tested) | self.origin)
      # All results are computed before the first one is written: a failure leaves the whole group unfinished.
      for member, result in zip(members, found, strict=True):
        member.folder.write_json("result.json", result)
    return found

  def _rig(self, placement: Placement) -> Rig:
    return Rig(self.settings, self.beginning, placement, self.plan.replicas[0].arrays, self.plan.epoch_rows)

  def _choose(self) -> tuple[Choice, Rig]:
    """Chooses how many replicas train together; a resumed run keeps the recorded choice."""
    tried: dict[int, Rig] = {}

    def rig_of(together: int) -> Rig:
      if together not in tried:
        placement = Replicas(together, self.devices) if together > 1 else Devices(self.devices[:1])
        tried[together] = self._rig(placement)
      return tried[together]

    def try_out(together: int) -> Trial:
      return Trial(rig_of(together), self.plan.replicas[:together])

    place = Workdir(self.folder.path / REPLICAS)
    before = place.read_json(_CHOICE)
    if before is not None:
      choice = Choice(**before)
    else:
      choice = replicas.choose(self.settings.replica_strategy, len(self.plan.replicas), self.devices, try_out)
      place.path.mkdir(exist_ok=True)
      place.write_json(_CHOICE, choice._asdict())
    return choice, rig_of(choice.together)

  def _claim(self, replica: Replica, folder: Workdir) -> None:
    """Claims the folder of a replica, with the config under which the replica could be trained alone."""
    config = self.config.copy_and_resolve_references()
    with config.unlocked():
      config.replicas, config.seed = 1, replica.seed
      own = [f"--config.seed={replica.seed}", "--config.replicas=1"]
      if replica.fold is not None:
        config.folds.number = replica.fold
        own.append(f"--config.folds.number={replica.fold}")
    device, data = provenance.device(self.devices), replica.arrays.fingerprint
    folder.claim(config, self.source, [*self.overrides, *own], device, data)

  def _left(self, watch: Stopwatch) -> float:
    """Returns the seconds left of the time budget, at least 1."""
    return max(60 * self.settings.budget_minutes - watch.seconds, 1.0)

  def _measure(self, rig: Rig, group: Sequence[Replica], watch: Stopwatch) -> Pace | None:
    """Compiles and times the steps and evaluations of replicas that train together; the resulting state is discarded.

    Compilation therefore happens before the first step and is not charged to any replica or phase.

    Returns:
      Measured pace, or None without a time budget.
    """
    if not self.settings.budget_minutes:
      return None
    step = tuple(Trial(_with_phases(rig, [phase]), group).seconds() for phase in rig.phases)
    variables = rig.begin(group).variables
    rig.evaluate(variables, group, "validation")  # the first call compiles; the second is timed
    before = watch.seconds
    rig.evaluate(variables, group, "validation")
    evaluation = watch.seconds - before
    final = final_evaluations(self.settings, self.plan.replicas)
    return Pace(self.settings, self.plan.epoch_rows, step, evaluation, final)

  def _fit(
    self, planned: Sequence[Phase], pace: Pace, waves: int, watch: Stopwatch, say: Callable[[str], None]
  ) -> list[Phase]:
    """Returns the phases with the number of steps that fits the time budget, equal for all waves and after a resume."""
    found = self._planned()
    if found is None:
      minutes, runs, whole = self.settings.budget_minutes, len(self.plan.replicas), sum(self.steps)
      steps, fits = pace.fitting(self.steps, self._left(watch), waves)
      fit = f"all {whole} steps fit" if list(steps) == self.steps else f"{sum(steps)} of {whole} steps fit"
      text = f"time budget: {fit} for each of {runs} runs; preparation and compilation took {watch.seconds:.0f} s"
      if not fits:  # not even one step of each phase
        text = f"config.budget_minutes={minutes:g} is too short for {runs} runs: each takes one step of each phase"
      say(text)
      found = {"steps": steps, "note": "" if fits else text}
      Workdir(self.folder.path / REPLICAS).write_json(_BUDGET, found)
    return [dataclasses.replace(phase, steps=n) for phase, n in zip(planned, found["steps"], strict=True)]

  def _planned(self) -> dict[str, Any] | None:
    """Returns the steps that `_fit` recorded, in this process or an earlier one; None before it did."""
    return Workdir(self.folder.path / REPLICAS).read_json(_BUDGET)


def _with_phases(rig: Rig, phases: Sequence[Phase]) -> Rig:
  """Returns a copy of a rig with the same programs and data, and other phases."""
  found = copy.copy(rig)  # shallow: the compiled programs are shared
  found.phases = tuple(phases)
  return found


def _seconds(group: Sequence[Replica], folders: dict[str, Workdir]) -> float:
  """Returns the training time of a group of replicas that train together: that of the slowest."""
  return max((folders[each.name].result or {})["seconds"] for each in group)
