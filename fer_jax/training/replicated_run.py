"""A run of several replicas: strategy, waves of replicas that train together, and the combined result."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from fer_jax.config.settings import CLOCKS
from fer_jax.runtime import provenance
from fer_jax.runtime.interruption import Signals
from fer_jax.runtime.parallel import Devices, Replicas
from fer_jax.training import combined_result
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.group import train_group
from fer_jax.training.replicas import Replica, waves
from fer_jax.training.run import Run
from fer_jax.training.run_log import Console, RunLog, Stopwatch
from fer_jax.training.run_result import RunResult, Strategy
from fer_jax.training.strategy import StrategyProbe, choose_strategy
from fer_jax.training.time_budget import TimeBudget, measure, seconds_left
from fer_jax.training.workdir import Workdir

REPLICAS = "replicas"  # subfolder that holds the folders of the replicas
_STRATEGY = "choice.json"  # strategy, kept so that a resumed run uses the same one
_BUDGET = "budget.json"  # number of steps of each phase that fits in the time budget


def train_replicas(run: Run, watch: Stopwatch, signals: Signals) -> RunResult:
  """Trains all replicas of a run, several at a time where that is faster; returns their combined result.

  Args:
    run: Run of several replicas.
    watch: Stopwatch of the run.
    signals: Signal handler that requests a stop.
  """
  console = Console()
  shared = Workdir(run.folder.path / REPLICAS)
  with contextlib.ExitStack() as stack, RunLog(run.folder.path, watch) as log:
    folders = {each.name: stack.enter_context(Workdir(shared.path / each.name)) for each in run.plan.replicas}

    def say(text: str) -> None:
      log.event(0, text)
      console.say(text)

    with watch.timing("prepare"):
      strategy, compiled = _choose_strategy(run, shared)
    say(f"{len(folders)} runs, {strategy.together} at a time ({strategy.strategy}: {strategy.reason})")
    groups = waves(run.plan.replicas, strategy.together)
    prepared = _train_waves(run, compiled, groups, folders, shared, watch, console, signals, say)
    finished = {name: folder.result for name, folder in folders.items()}
    found = {name: result for name, result in finished.items() if result is not None}
    planned = shared.read_json(_BUDGET) or {"steps": [], "note": ""}
    if unequal := combined_result.unequal_steps(found, sum(planned["steps"])):
      say(unequal)
  combined_result.pool_predictions(list(folders.values()), run.folder)
  # Of replicas trained together, the slowest counts once; waves run one after the other, so their times add up.
  seconds = prepared + sum(max(found[each.name].seconds for each in group) for group in groups)
  result = combined_result.combine(run, found, strategy, seconds, watch.times, [planned["note"], unequal])
  run.folder.write_json("result.json", result.to_json())
  console.say(f"{len(found)} runs: mean accuracy {result.accuracy:.4f}, standard deviation {result.std:.4f}")
  return result


def _choose_strategy(run: Run, shared: Workdir) -> tuple[Strategy, CompiledRun]:
  """Chooses how many replicas train together; a resumed run keeps the recorded choice."""
  compiled: dict[int, CompiledRun] = {}

  def compiled_for(together: int) -> CompiledRun:
    if together not in compiled:
      placement = Replicas(together, run.devices) if together > 1 else Devices(run.devices[:1])
      compiled[together] = run.compile(placement)
    return compiled[together]

  def probe(together: int) -> StrategyProbe:
    return StrategyProbe(compiled_for(together), run.phases[0], run.plan.replicas[:together])

  recorded = shared.read_json(_STRATEGY)
  if recorded is not None:
    strategy = Strategy(**recorded)
  else:
    strategy = choose_strategy(run.settings.replica_strategy, len(run.plan.replicas), run.devices, probe)
    shared.path.mkdir(exist_ok=True)
    shared.write_json(_STRATEGY, dataclasses.asdict(strategy))
  return strategy, compiled_for(strategy.together)


def _train_waves(
  run: Run,
  compiled: CompiledRun,
  groups: Sequence[Sequence[Replica]],
  folders: Mapping[str, Workdir],
  shared: Workdir,
  watch: Stopwatch,
  console: Console,
  signals: Signals,
  say: Callable[[str], None],
) -> float:
  """Trains the unfinished waves one after the other.

  Args:
    run: Run of several replicas.
    compiled: Compiled run for replicas that train together.
    groups: Waves: groups of replicas that train together, in order.
    folders: Run folders of the replicas, by replica name.
    shared: Folder of the files that all replicas share.
    watch: Stopwatch of the whole run.
    console: Console for progress lines.
    signals: Signal handler that requests a stop.
    say: Function that logs and prints a line.

  Returns:
    Seconds of preparation before the first wave.
  """
  unfinished = [group for group in groups if any(not folders[each.name].finished for each in group)]
  if not unfinished:
    return watch.seconds
  settings, phases, several = run.settings, run.phases, len(groups) > 1
  with watch.timing("prepare"):
    budget = measure(settings, compiled, phases, run.plan, unfinished[0], watch)
  if budget is not None and several:
    steps = _steps_within(run, budget, len(groups), shared, watch, say)
    phases = tuple(dataclasses.replace(phase, steps=n) for phase, n in zip(phases, steps, strict=True))
  prepared = watch.seconds
  # Waves that an earlier process finished are skipped but counted in the displayed number.
  for number, group in enumerate(unfinished):
    names = ", ".join(each.name.replace("_", " ") for each in group)
    console.say(f"{names}  ({len(groups) - len(unfinished) + number + 1} of {len(groups)})")
    for each in group:
      _claim(run, each, folders[each.name])
    deadlines: Sequence[float] = ()
    if budget is not None:
      # A single wave is limited by its deadlines alone; with several, `_steps_within` has reduced the steps.
      waiting = len(unfinished) - number if several else 0
      deadlines = budget.deadlines([phase.steps for phase in phases], seconds_left(settings, watch), waiting)
    its_watch = Stopwatch(now=CLOCKS[settings.clock])
    its_folders = [folders[each.name] for each in group]
    train_group(run, compiled, phases, group, its_folders, its_watch, console, signals, deadlines)
    watch.include(its_watch)
  return prepared


def _steps_within(
  run: Run, budget: TimeBudget, waves: int, shared: Workdir, watch: Stopwatch, say: Callable[[str], None]
) -> Sequence[int]:
  """Returns the steps of each phase that fit in the time budget, equal for all waves and after a resume."""
  recorded = shared.read_json(_BUDGET)
  if recorded is not None:
    return recorded["steps"]
  planned = [phase.steps for phase in run.phases]
  runs, whole = len(run.plan.replicas), sum(planned)
  steps, fits = budget.fitting_steps(planned, seconds_left(run.settings, watch), waves)
  fit = f"all {whole} steps fit" if list(steps) == planned else f"{sum(steps)} of {whole} steps fit"
  text = f"time budget: {fit} for each of {runs} runs; preparation and compilation took {watch.seconds:.0f} s"
  if not fits:  # not even one step of each phase
    minutes = run.settings.budget_minutes
    text = f"config.budget_minutes={minutes:g} is too short for {runs} runs: each takes one step of each phase"
  say(text)
  shared.write_json(_BUDGET, {"steps": steps, "note": "" if fits else text})
  return steps


def _claim(run: Run, replica: Replica, folder: Workdir) -> None:
  """Claims the folder of a replica, with the config under which the replica could be trained alone."""
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.replicas, config.seed = 1, replica.seed
    overrides = [*run.overrides, f"--config.seed={replica.seed}", "--config.replicas=1"]
    if replica.fold is not None:
      config.folds.number = replica.fold
      overrides.append(f"--config.folds.number={replica.fold}")
  folder.claim(config, run.source, overrides, provenance.device(run.devices), replica.arrays.fingerprint)
