"""Runs what a sweep lacks, wherever its executor does, and gathers what came out."""

import json
import signal
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_jax import locks
from fer_jax.apps.report_page.quantities import duration
from fer_jax.apps.report_page.run_files import Record, write_text
from fer_jax.apps.sweeps.executors import Executor, Later, Outcome, Silence
from fer_jax.apps.sweeps.gather import gather, read_trainings
from fer_jax.apps.sweeps.page import sweep_page
from fer_jax.apps.sweeps.plan import Plan, Run
from fer_jax.errors import UserError


class Launcher:
  """Runs what a plan lacks.

  Args:
    planned: the sweep.
    executor: of its runs.
    wait: whether to wait for the end of what was started; without, runs that can only be started later are not.
  """

  def __init__(self, planned: Plan, executor: Executor, *, wait: bool = True):
    self.plan = planned
    self._executor = executor
    self._wait = wait
    runs = planned.distinct
    self._number = {run.workdir: f"[{position}/{len(runs)}]" for position, run in enumerate(runs, start=1)}
    self._waiting = list(runs)
    self._on: dict[Path, tuple[Run, float]] = {}
    self._outcomes: dict[Path, Outcome] = {}  # of those that failed
    self._held = ""  # why a run whose turn it is has to wait
    self._signum: int | None = None

  def run(self) -> int:
    """Runs what is not finished, in order, and gathers whenever a run ends; returns the exit status.

    What an earlier sweep has started is found first. A run that cannot be started now is tried again while others are
    on, and while there is no answer.

    A run that fails does not stop the others, but for those that begin with it. A signal is passed on to the executor:
    a run of this machine saves and ends, jobs of a cluster go on.

    Returns:
      0, 1 where a run failed, or 128 + signal.

    Raises:
      UserError: another process runs this sweep; or the executor can start nothing, and what is on goes on.
    """
    with locks.take(self.plan.folder / "lock"), self._signals():
      try:
        self._find()
        self._start()
        if self._executor.several:
          self._gather()
        while self._wait and (self._on or self._held) and self._signum is None:
          ended = self._executor.wait()
          for workdir, outcome in ended.items():
            self._end(*self._on.pop(workdir), outcome)
          if ended and (self._executor.several or self._waiting):  # the page can be looked at while the others train
            self._gather()
          self._start()
      except UserError as error:
        self._gather()
        left = "; ".join(filter(None, (str(error), self._executor.left())))
        raise type(error)(f"{left}; run the same command to go on") from None
      content = self._gather()
    return self._conclude(content)

  def keep(self, path: Path) -> None:
    """Writes what was gathered to another file, too."""
    write_text(path, (self.plan.folder / "sweep.json").read_text(encoding="utf-8"))

  def _find(self) -> None:
    """Takes over what is on already: what is asked of the executor then depends on it."""
    for run in list(self._waiting):
      if self._signum is None and not run.finished and (said := self._executor.find(run)):
        self._on[run.workdir] = run, time.monotonic()
        self._waiting.remove(run)
        self._say(run, said)

  def _start(self) -> None:
    """Starts the runs whose turn it is; says which are finished, and which cannot be begun."""
    held, self._held = self._held, ""
    for run in list(self._waiting):
      if self._signum is not None or (self._on and not self._executor.several):
        return
      if run.finished:
        self._say(run, "finished before")
      elif run.after in self._outcomes:
        self._fail(run, Outcome(1), "")
      elif run.after is None or (run.after / "result.json").is_file() or self._chained(run.after):
        try:
          self._begin(run)
        except Later as error:
          self._hold(error, held)
          return
      else:
        continue
      self._waiting.remove(run)

  def _chained(self, source: Path) -> bool:
    return self._executor.chains and source in self._on

  def _begin(self, run: Run) -> None:
    if not self._executor.several:  # it takes a while
      print(f"{self._number[run.workdir]} {run.title}{', goes on' * run.begun}{self._left()}", flush=True)
    start = time.monotonic()
    said = self._executor.start(run)
    self._on[run.workdir] = run, start
    if said:
      self._say(run, said)

  def _hold(self, error: Later, before: str) -> None:
    """Leaves a run and those behind it for later, and says so once; raises the error where there is no later."""
    if not (self._wait and (self._on or isinstance(error, Silence))):
      raise error
    self._held = str(error)
    if self._held != before:
      print(f"warning: {self._held}; trying again", file=sys.stderr, flush=True)

  def _end(self, run: Run, start: float, outcome: Outcome) -> None:
    # How long a job took is not known: it may have been queued, or have begun before the sweep did.
    spent = "" if self._executor.several else duration(time.monotonic() - start)
    if outcome.status == 0 and not run.finished:
      outcome = Outcome(1, outcome.error or "ended without a result.json")
    if outcome.status == 0:
      self._say(run, f"finished{f' in {spent}' * bool(spent)}")
    elif self._signum is not None:  # told to stop, it is no failure, however it took that
      self._say(run, f"stopped{f' after {spent}' * bool(spent)}")
    else:
      self._fail(run, outcome, spent)

  def _fail(self, run: Run, outcome: Outcome, spent: str) -> None:
    error = outcome.error or f"exit status {outcome.status}"
    if run.after in self._outcomes:
      source = next(other for other in self.plan.runs if other.workdir == run.after)
      error = f"it begins with {source.title}, which failed"
    self._outcomes[run.workdir] = Outcome(outcome.status, error)
    self._say(run, f"failed{f' after {spent}' * bool(spent)}: {error}")

  def _say(self, run: Run, text: str) -> None:
    print(f"{self._number[run.workdir]} {run.title}: {text}", flush=True)

  def _conclude(self, content: Record) -> int:
    left = self._executor.left()
    if self._signum is not None:
      waiting = f"; {left}; run the same command to wait on" if left else "; run the same command to go on"
      print(f"{'waiting ' * bool(left)}stopped by {signal.Signals(self._signum).name}{waiting}")
      return 128 + self._signum
    if self._wait:
      return int(content["status"] != "finished")
    held = f"{len(self._waiting)} to be started when those that they begin with have ended" if self._waiting else ""
    if left or held:
      print(f"{'; '.join(filter(None, (left, held)))}; run the same command to gather")
    return int(content["status"] == "failed")

  def _gather(self) -> Record:
    trainings = read_trainings(self.plan, self._outcomes)
    content = gather(self.plan, trainings)
    write_text(self.plan.folder / "sweep.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(self.plan.folder / "index.html", sweep_page(content, trainings))
    return content

  def _left(self) -> str:
    """Says how long what is left takes: as long as the member's other seeds took, or as the mean of all runs."""
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
    """Passes signals on to the executor while the context lasts, but for SIGHUP where nohup has it ignored."""
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
