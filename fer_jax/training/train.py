"""A complete run: data, training, evaluation, checkpoints and results. Defines the order of all side effects."""

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fer_jax.config.parsing import parse
from fer_jax.config.settings import CLOCKS, Settings
from fer_jax.runtime import processes, provenance, xla
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.interruption import Signals
from fer_jax.runtime.parallel import Devices, all_devices
from fer_jax.training.group import train_group
from fer_jax.training.initialization import initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.replicas import ReplicaPlan, plan_replicas
from fer_jax.training.replicated_run import train_replicas
from fer_jax.training.run import Run
from fer_jax.training.run_log import Console, Stopwatch
from fer_jax.training.run_result import RunResult
from fer_jax.training.time_budget import measure, seconds_left
from fer_jax.training.workdir import Workdir


def train_and_evaluate(
  config: ConfigDict,
  workdir: Path,
  source: str = "",
  overrides: Sequence[str] = (),
  devices: Sequence[jax.Device] | None = None,
) -> RunResult:
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
    run = _set_up(config, settings, folder, source, overrides, devices)
    # All checks are done: from here on, files are written.
    fingerprint = run.plan.replicas[0].arrays.fingerprint
    processes.first(lambda: folder.claim(config, source, overrides, provenance.device(run.devices), fingerprint))
    if run.plan.folds is not None and folder.writes:
      run.plan.folds.save(workdir / "splits.json")
    with Signals() as signals:
      watch = Stopwatch(now() - started, now)
      return _train_alone(run, watch, signals) if len(run.plan.replicas) == 1 else train_replicas(run, watch, signals)


def _set_up(
  config: ConfigDict,
  settings: Settings,
  folder: Workdir,
  source: str,
  overrides: Sequence[str],
  devices: Sequence[jax.Device] | None,
) -> Run:
  """Loads the data, builds the network and the phases, and checks that they fit; writes nothing."""
  # Before the data is loaded, which may initialise the backend to augment images: the number of virtual CPU devices
  # (one per core) cannot be changed afterwards.
  found = list(devices or all_devices(settings.replicas or provenance.cores()))
  plan = processes.after_first(lambda: plan_replicas(settings))
  _check_processes(settings, plan)
  alone = len(plan.replicas) == 1
  if alone and devices is None and not settings.replicas and found[0].platform == "cpu" and processes.count() == 1:
    found = found[:1]  # a single remaining fold: its steps already use all cores
  axis_name = None
  if alone:
    data_parallel = Devices(found)
    data_parallel.check_batch(settings.batch_size, "config.batch_size")
    data_parallel.check_batch(settings.eval_batch_size, "config.eval_batch_size")
    axis_name = data_parallel.axis_name
  arrays = plan.replicas[0].arrays
  initialization = initialize(settings, arrays.image.shape[1:], arrays.num_classes, axis_name)
  phases = plan_phases(settings, initialization.network, axis_name, plan.epoch_rows)
  return Run(
    config=config,
    settings=settings,
    source=source,
    overrides=tuple(overrides),
    folder=folder,
    devices=tuple(found),
    plan=plan,
    initialization=initialization,
    phases=phases,
    # Recorded at the start, because the checkout may change during the run.
    commit=provenance.commit(),
  )


def _check_processes(settings: Settings, plan: ReplicaPlan) -> None:
  """Raises UserError if the processes have different data, or if several processes would train several replicas."""
  if others := processes.differing(plan.replicas[0].arrays.fingerprint):
    raise UserError(
      f"{settings.data.name} differs between processes: process {others[0]} has other data than process 0; prepare "
      "identical data on all machines, or use a shared disk"
    )
  if processes.count() > 1 and len(plan.replicas) > 1:
    raise UserError(
      f"config.replicas: {len(plan.replicas)} replicas require a single process, but there are {processes.count()}; "
      "start one process with all devices, or one run per replica (launch/sweep.py)"
    )


def _train_alone(run: Run, watch: Stopwatch, signals: Signals) -> RunResult:
  """Trains the only replica, data-parallel over all devices; returns its result."""
  with watch.timing("prepare"):
    compiled = run.compile(Devices(run.devices))
    budget = measure(run.settings, compiled, run.phases, run.plan, run.plan.replicas, watch)
  deadlines: Sequence[float] = ()
  if budget is not None:
    steps = [phase.steps for phase in run.phases]
    deadlines = budget.deadlines(steps, seconds_left(run.settings, watch), begin=watch.seconds)
  console = Console(silent=not run.folder.writes)
  (result,) = train_group(
    run, compiled, run.phases, run.plan.replicas, [run.folder], watch, console, signals, deadlines
  )
  return result
