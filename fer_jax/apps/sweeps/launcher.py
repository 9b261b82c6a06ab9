"""Runs the unfinished runs of a sweep with an executor, and gathers the results."""

import json
import signal
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_jax.apps.formatting import duration
from fer_jax.apps.sweeps.executors import Executor, NoResponse, NotReady, Outcome
from fer_jax.apps.sweeps.gather import gather, read_trainings
from fer_jax.apps.sweeps.page import sweep_page
from fer_jax.apps.sweeps.plan import Plan, Run
from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import Record, write_text


class Launcher:
  """Runs the unfinished runs of a plan.

  Args:
    planned: Plan of the sweep.
    executor: Executor of its runs.
    wait: Whether to block until all runs have ended. If false, only the runs that can be started now are started.
  """

  def __init__(self, planned: Plan, executor: Executor, *, wait: bool = True):
    self.plan = planned
    self._executor = executor
    self._wait = wait
    runs = planned.distinct
    self._number = {run.workdir: f"[{position}/{len(runs)}]" for position, run in enumerate(runs, start=1)}
    self._waiting = list(runs)
    self._on: dict[Path, tuple[Run, float]] = {}  # active runs, by workdir, each with its start time
    self._outcomes: dict[Path, Outcome] = {}  # of the failed runs, by workdir
    self._held = ""  # why the next run cannot be started yet
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
    with locks.acquire(self.plan.folder / "lock"), self._signals():
      try:
        self._find()
        self._start()
        if self._executor.several:
          self._gather()
        while self._wait and (self._on or self._held) and self._signum is None:
          ended = self._executor.wait()
          for workdir, outcome in ended.items():
            self._end(*self._on.pop(workdir), outcome)
          # Gathering here keeps the page up to date while other runs train. The end is gathered below.
          if ended and (self._executor.several or self._waiting):
            self._gather()
          self._start()
      except UserError as error:
        self._gather()
        left = "; ".join(filter(None, (str(error), self._executor.left())))
        raise type(error)(f"{left}; run the same command to go on") from None
      content = self._gather()
    return self._conclude(content)

  def keep(self, path: Path) -> None:
    """Copies the gathered results to another file."""
    write_text(path, (self.plan.folder / "sweep.json").read_text(encoding="utf-8"))

  def _find(self) -> None:
    """Adopts the runs that are already active, before any run is started: later runs can depend on them."""
    for run in list(self._waiting):
      if self._signum is None and not run.finished and (said := self._executor.find(run)):
        self._on[run.workdir] = run, time.monotonic()
        self._waiting.remove(run)
        self._say(run, said)

  def _start(self) -> None:
    """Starts the runs that can be started, and reports those that are finished or depend on a failed run."""
    held, self._held = self._held, ""
    for run in list(self._waiting):
      if self._signum is not None or (self._on and not self._executor.several):
        return
      # A run is ready if it depends on no other, if that one has finished, or if the executor orders the two itself.
      if run.finished:
        self._say(run, "finished before")
      elif run.after in self._outcomes:
        self._fail(run, Outcome(1), "")
      elif run.after is None or (run.after / "result.json").is_file() or self._chained(run.after):
        try:
          self._begin(run)
        except NotReady as error:
          self._hold(error, held)
          return
      else:
        continue  # stays in self._waiting until the run that it depends on has ended
      self._waiting.remove(run)

  def _chained(self, source: Path) -> bool:
    return self._executor.chains and source in self._on

  def _begin(self, run: Run) -> None:
    if not self._executor.several:  # the only active run: announce it with an estimate of the time left
      print(f"{self._number[run.workdir]} {run.title}{', goes on' * run.begun}{self._left()}", flush=True)
    start = time.monotonic()
    said = self._executor.start(run)
    self._on[run.workdir] = run, start
    if said:
      self._say(run, said)

  def _hold(self, error: NotReady, before: str) -> None:
    """Postpones a run and all after it, with one warning for each reason; raises the error if retrying is pointless.

    Retrying makes sense while other runs are active, or if the cluster did not respond.
    """
    if not (self._wait and (self._on or isinstance(error, NoResponse))):
      raise error
    self._held = str(error)
    if self._held != before:
      print(f"warning: {self._held}; trying again", file=sys.stderr, flush=True)

  def _end(self, run: Run, start: float, outcome: Outcome) -> None:
    # The duration of a job is unknown: it may have been queued, or have started before this sweep.
    spent = "" if self._executor.several else duration(time.monotonic() - start)
    if outcome.status == 0 and not run.finished:
      outcome = Outcome(1, outcome.error or "ended without a result.json")
    if outcome.status == 0:
      self._say(run, f"finished{f' in {spent}' * bool(spent)}")
    elif self._signum is not None:  # stopped by a signal, which is not a failure, whatever the exit status
      self._say(run, f"stopped{f' after {spent}' * bool(spent)}")
    else:
      self._fail(run, outcome, spent)

  def _fail(self, run: Run, outcome: Outcome, spent: str) -> None:
    error = outcome.error or f"exit status {outcome.status}"
    if run.after in self._outcomes:
      source = next(other for other in self.plan.runs if other.workdir == run.after)
      error = f"it depends on {source.title}, which failed"
    self._outcomes[run.workdir] = Outcome(outcome.status, error)
    self._say(run, f"failed{f' after {spent}' * bool(spent)}: {error}")

  def _say(self, run: Run, text: str) -> None:
    print(f"{self._number[run.workdir]} {run.title}: {text}", flush=True)

  def _conclude(self, content: Record) -> int:
    left = self._executor.left()
    if self._signum is not None:
      waiting = f"; {left}; run the same command to keep waiting" if left else "; run the same command to go on"
      print(f"{'waiting ' * bool(left)}stopped by {signal.Signals(self._signum).name}{waiting}")
      return 128 + self._signum
    if self._wait:
      return int(content["status"] != "finished")
    held = f"{len(self._waiting)} to be started when the runs that they depend on have ended" if self._waiting else ""
    if left or held:
      print(f"{'; '.join(filter(None, (left, held)))}; run the same command to gather")
    return int(content["status"] == "failed")

  def _gather(self) -> Record:
    """Writes sweep.json and index.html from what exists so far; returns the content of sweep.json."""
    trainings = read_trainings(self.plan, self._outcomes)
    content = gather(self.plan, trainings)
    write_text(self.plan.folder / "sweep.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(self.plan.folder / "index.html", sweep_page(content, trainings))
    return content

  def _left(self) -> str:
    """Returns an estimate of the remaining time; empty before the first run has finished.

    A run is estimated by the mean time of its member's other seeds, or of all runs if no other seed has finished.
    """
    known: dict[str, list[float]] = {}
    for training in read_trainings(self.plan, {}):
      if training.result is not None and training.result.get("seconds"):
        known.setdefault(training.run.member, []).append(training.result["seconds"])
    everything = [seconds for of in known.values() for seconds in of]
    if not everything:
      return ""
    guesses = [known.get(run.member, everything) for run in self._waiting if not run.finished]
    return f" (about {duration(sum(sum(of) / len(of) for of in guesses))} left)"

  @contextmanager
  def _signals(self) -> Iterator[None]:
    """Forwards signals to the executor within the context; SIGHUP is left ignored under nohup."""
    passed_on = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
      passed_on.append(signal.SIGHUP)
    before = {signum: signal.signal(signum, self._stop) for signum in passed_on}
    try:
      yield
    finally:
      for signum, handler in before.items():
        signal.signal(signum, handler)

  def _stop(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self._signum = signum
    self._executor.stop(signum)
