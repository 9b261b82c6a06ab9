"""Runs the unfinished runs of a sweep with an executor, and gathers the results."""

import contextlib
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from fer_jax.apps.formatting import duration
from fer_jax.apps.sweeps.executors import Executor, NoResponse, NotReady, Outcome
from fer_jax.apps.sweeps.gather import gather
from fer_jax.apps.sweeps.outputs import read_outputs
from fer_jax.apps.sweeps.page import sweep_page
from fer_jax.apps.sweeps.plan import PlannedRun, SweepPlan
from fer_jax.apps.sweeps.sweep_result import SweepResult
from fer_jax.runtime import locks, typed_json
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import write_text


class Launcher:
  """Runs the unfinished runs of a plan.

  Args:
    plan: Plan of the sweep.
    executor: Executor of its runs.
    wait: Whether to block until all runs have ended. If false, only the runs that can be started now are started.
  """

  def __init__(self, plan: SweepPlan, executor: Executor, *, wait: bool = True):
    self._plan = plan
    self._executor = executor
    self._wait = wait
    runs = plan.distinct
    self._number = {run.workdir: f"[{position}/{len(runs)}]" for position, run in enumerate(runs, start=1)}
    self._waiting = list(runs)
    self._active: dict[Path, tuple[PlannedRun, float]] = {}  # by workdir, each with its start time
    self._failed: dict[Path, Outcome] = {}  # by workdir
    self._postponed = ""  # why the next run cannot be started yet
    self._signum: int | None = None

  def run(self) -> int:
    """Runs the unfinished runs in order and gathers the results whenever a run ends.

    Runs that an earlier sweep started and that are still active are adopted first. A run that cannot be started now is
    retried while other runs are active, and while the cluster does not respond.

    A failed run stops only the runs that start from its parameters. A signal is forwarded to the executor: a local run
    saves its state and ends, jobs of a cluster continue.

    Returns:
      Exit status: 0, 1 if a run failed, or 128 + signal number.

    Raises:
      UserError: Another process is running this sweep, or the executor cannot start any run. Active jobs continue.
    """
    with locks.acquire(self._plan.folder / "lock"), self._signals():
      try:
        self._adopt()
        self._start()
        if self._executor.concurrent:
          self._gather()
        while self._wait and (self._active or self._postponed) and self._signum is None:
          ended = self._executor.wait()
          for workdir, outcome in ended.items():
            self._end(*self._active.pop(workdir), outcome)
          # Gathering here keeps the page up to date while other runs train. The end is gathered below.
          if ended and (self._executor.concurrent or self._waiting):
            self._gather()
          self._start()
      except UserError as error:
        self._gather()
        message = "; ".join(filter(None, (str(error), self._executor.remaining())))
        raise type(error)(f"{message}; run the same command to continue") from None
      result = self._gather()
    return self._conclude(result)

  def _adopt(self) -> None:
    """Adopts the runs that are already active, before any run is started: later runs can depend on them."""
    for run in list(self._waiting):
      with contextlib.suppress(NoResponse):  # the executor asks again before it starts a run
        if self._signum is None and not run.finished and (state := self._executor.adopt(run)):
          self._active[run.workdir] = run, time.monotonic()
          self._waiting.remove(run)
          self._print(run, state)

  def _start(self) -> None:
    """Starts the runs that can be started, and reports those that are finished or depend on a failed run."""
    before, self._postponed = self._postponed, ""
    for run in list(self._waiting):
      if self._signum is not None or (self._active and not self._executor.concurrent):
        return
      if run.finished:
        self._print(run, "finished before")
      elif run.init_from in self._failed:
        self._fail(run, Outcome(1), "")
      elif self._ready(run):
        try:
          self._start_run(run)
        except NotReady as error:
          self._postpone(error, before)
          return
      else:
        continue  # stays in self._waiting until the run that it depends on has ended
      self._waiting.remove(run)

  def _ready(self, run: PlannedRun) -> bool:
    """Returns whether a run depends on no other, that one has finished, or the executor itself orders the two."""
    source = run.init_from
    finished = source is None or (source / "result.json").is_file()
    return finished or (self._executor.dependencies and source in self._active)

  def _start_run(self, run: PlannedRun) -> None:
    if not self._executor.concurrent:  # the only active run: announce it with an estimate of the time left
      print(f"{self._number[run.workdir]} {run.title}{', resumes' * run.started}{self._time_left()}", flush=True)
    start = time.monotonic()
    message = self._executor.start(run)
    self._active[run.workdir] = run, start
    if message:
      self._print(run, message)

  def _postpone(self, error: NotReady, before: str) -> None:
    """Postpones a run and all after it, with one warning for each reason; raises the error if retrying is pointless.

    Retrying makes sense while other runs are active, or if the cluster did not respond.
    """
    if not (self._wait and (self._active or isinstance(error, NoResponse))):
      raise error
    self._postponed = str(error)
    if self._postponed != before:
      print(f"warning: {self._postponed}; trying again", file=sys.stderr, flush=True)

  def _end(self, run: PlannedRun, start: float, outcome: Outcome) -> None:
    # The duration of a job is unknown: it may have been queued, or have started before this sweep.
    spent = "" if self._executor.concurrent else f" after {duration(time.monotonic() - start)}"
    if outcome.status == 0 and not run.finished:
      outcome = Outcome(1, outcome.error or "ended without a result.json")
    if outcome.status == 0:
      self._print(run, f"finished{spent}")
    elif self._signum is not None:  # stopped by a signal, which is not a failure, whatever the exit status
      self._print(run, f"stopped{spent}")
    else:
      self._fail(run, outcome, spent)

  def _fail(self, run: PlannedRun, outcome: Outcome, spent: str) -> None:
    error = outcome.error or f"exit status {outcome.status}"
    if run.init_from in self._failed:
      source = next(other for other in self._plan.runs if other.workdir == run.init_from)
      error = f"it depends on {source.title}, which failed"
    self._failed[run.workdir] = Outcome(outcome.status, error)
    self._print(run, f"failed{spent}: {error}")

  def _print(self, run: PlannedRun, text: str) -> None:
    print(f"{self._number[run.workdir]} {run.title}: {text}", flush=True)

  def _conclude(self, result: SweepResult) -> int:
    """Prints what remains to be done, and returns the exit status."""
    remaining = self._executor.remaining()
    if self._signum is not None:
      end = (
        f"; {remaining}; run the same command to keep waiting" if remaining else "; run the same command to continue"
      )
      print(f"{'waiting ' * bool(remaining)}stopped by {signal.Signals(self._signum).name}{end}")
      return 128 + self._signum
    if self._wait:
      return int(result.status != "finished")
    later = f"{len(self._waiting)} to be started when the runs that they depend on have ended" * bool(self._waiting)
    if remaining or later:
      print(f"{'; '.join(filter(None, (remaining, later)))}; run the same command to gather")
    return int(result.status == "failed")

  def _gather(self) -> SweepResult:
    """Writes sweep.json and index.html from what exists so far."""
    outputs = read_outputs(self._plan, self._failed)
    result = gather(self._plan, outputs)
    typed_json.write(self._plan.folder / "sweep.json", result)
    write_text(self._plan.folder / "index.html", sweep_page(result, outputs))
    return result

  def _time_left(self) -> str:
    """Returns an estimate of the remaining time; empty before the first run has finished.

    A run is estimated by the mean time of its candidate's other seeds, or of all runs if no other seed has finished.
    """
    known: dict[str, list[float]] = {}
    for output in read_outputs(self._plan, {}):
      if output.result is not None:
        known.setdefault(output.run.candidate, []).append(output.result.seconds)
    everything = [seconds for of in known.values() for seconds in of]
    estimates = [known.get(run.candidate, everything) for run in self._waiting if not run.finished]
    return f" (about {duration(sum(map(fmean, estimates)))} left)" if everything else ""

  @contextlib.contextmanager
  def _signals(self) -> Iterator[None]:
    """Forwards signals to the executor within the context; SIGHUP is left ignored under nohup."""
    forwarded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
      forwarded.append(signal.SIGHUP)
    before = {signum: signal.signal(signum, self._stop) for signum in forwarded}
    try:
      yield
    finally:
      for signum, handler in before.items():
        signal.signal(signum, handler)

  def _stop(self, signum: int, frame: types.FrameType | None) -> None:
    self._signum = signum
    self._executor.stop(signum)
