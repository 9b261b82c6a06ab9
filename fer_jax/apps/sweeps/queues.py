"""Runs as jobs of a cluster's queue: submitted at once, remembered, waited for."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fer_jax import locks
from fer_jax.apps.report_page.run_files import write_text
from fer_jax.apps.sweeps.executors import Outcome
from fer_jax.apps.sweeps.plan import Run
from fer_jax.errors import UserError

POLL_SECONDS = 15.0
# For what a job left to be seen on a shared disk, and for a job that left the queue to be entered into the books.
GRACE_SECONDS = 60.0
_SLICE_SECONDS = 0.2  # after which a signal is heard of
_ANSWER_SECONDS = 120.0


class Silence(UserError):
  """A command of the cluster did not answer as expected, perhaps for a while only."""


@dataclass(frozen=True)
class JobState:
  """Where a job is.

  Attributes:
    word: "queued", "running", or the cluster's own word for how it ended.
    ended: whether it is over.
    status: its exit status, where it is; None where that is not known.
  """

  word: str
  ended: bool = False
  status: int | None = None


class Cluster(Protocol):
  """What a queue asks of a cluster; see slurm.py and k8s.py.

  Attributes:
    chains: whether a job can wait in the queue for another's success.
  """

  chains: bool

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command that submits a run, which waits for the job `after`."""

  def submit(self, run: Run, after: str | None) -> str:
    """Submits a run; returns the job's id. Raises UserError where it is refused."""

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs by id, without those that the cluster has forgotten; raises Silence."""

  def last_words(self, job: str, run: Run) -> str:
    """Returns what a job said last of an error; empty where that is not known."""

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command that cancels jobs."""


class Queue:
  """Executes runs as jobs of a cluster.

  A job outlives the sweep that submitted it, and so its id is kept in a file beside the runs: whichever sweep wants the
  run next finds it, and submits it again only once the job is over and the run is not finished.

  Args:
    cluster: to submit to.
    folder: of the files with ids.
    runs: of the sweep; the states of their jobs are asked for together.
    poll_seconds: between two looks at the queue.
    grace_seconds: before a job that ended well without a result, or that was forgotten, is given up.
  """

  several = True

  def __init__(
    self,
    cluster: Cluster,
    folder: Path,
    runs: Sequence[Run],
    poll_seconds: float = POLL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
  ):
    self.chains = cluster.chains
    self._cluster = cluster
    self._folder = folder
    self._runs = runs
    self._poll_seconds = poll_seconds
    self._grace_seconds = grace_seconds
    self._on: dict[str, Run] = {}
    self._doubtful: dict[str, float] = {}
    self._stopped = False

  def command(self, run: Run) -> list[str]:
    """Returns the command that submits the run; the id of a job that is not yet submitted is called ID."""
    after = None
    if self.chains and run.after is not None and not (run.after / "result.json").is_file():
      job = self._recorded(run.after)
      state = self._before(job)
      after = job if state is not None and not state.ended else "ID"
    return self._cluster.command(run, after)

  def state(self, run: Run) -> str:
    """Says where the run's job is while it is queued or running."""
    job = self._recorded(run.workdir)
    try:
      state = self._before(job)
    except UserError as error:
      return f"as job {job} ({error})"
    return f"{state.word} as job {job}" if state is not None and not state.ended else ""

  def start(self, run: Run) -> str:
    """Submits a run, unless a job of it is queued or running."""
    with locks.take(self._folder / "lock", wait=True):
      job = self._recorded(run.workdir)
      state = self._before(job)
      if state is not None and not state.ended:
        self._on[job] = run
        return f"{state.word} as job {job} since before"
      if job and run.finished:  # since the launcher looked
        self._on[job] = run
        return f"job {job} has ended"
      after = next((other for other, known in self._on.items() if known.workdir == run.after), None)
      before = f"{self._outcome(job, run, state).error}; " if job else ""  # its log may go when it is submitted again
      submitted = self._cluster.submit(run, after)
      write_text(self._record(run.workdir), json.dumps({"job": submitted}) + "\n")
    self._on[submitted] = run
    return f"{before}submitted {'again ' * bool(job)}as job {submitted}{', goes on' * run.begun}"

  def wait(self) -> Mapping[Path, Outcome]:
    """Looks at the queue, at intervals, until a job has ended."""
    while not self._stopped:
      if ended := self._look():
        return ended
      until = time.monotonic() + self._poll_seconds
      while not self._stopped and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE_SECONDS))
    return {}

  def stop(self, signum: int) -> None:
    """Ends the waiting; the jobs go on."""
    del signum
    self._stopped = True

  def left(self) -> str:
    """Says how many jobs go on and how to cancel them."""
    if not self._on:
      return ""
    count = f"{len(self._on)} job{'s go' if len(self._on) > 1 else ' goes'} on"
    return f"{count}; to cancel: {' '.join(self._cluster.cancel(list(self._on)))}"

  def _look(self) -> dict[Path, Outcome]:
    try:
      states = self._cluster.states(list(self._on))
    except Silence as error:
      print(f"warning: {error}; asking again", file=sys.stderr, flush=True)
      return {}
    ended = {}
    for job, run in list(self._on.items()):
      state = states.get(job)
      if state is not None and not state.ended:
        self._doubtful.pop(job, None)
        continue
      outcome = self._outcome(job, run, state)
      if (state is None or outcome.status == 0) and not run.finished and self._in_grace(job):
        continue
      del self._on[job]
      ended[run.workdir] = outcome
    return ended

  def _in_grace(self, job: str) -> bool:
    now = time.monotonic()
    return now - self._doubtful.setdefault(job, now) < self._grace_seconds

  def _outcome(self, job: str, run: Run, state: JobState | None) -> Outcome:
    if run.finished or (state is not None and state.status == 0):
      return Outcome(0, f"job {job} ended without a result.json")
    said = self._cluster.last_words(job, run)
    if state is None:
      return Outcome(1, f"job {job} is gone from the queue" + (f": {said}" if said else ""))
    return Outcome(state.status or 1, f"job {job} ended as {state.word}" + (f": {said}" if said else ""))

  @cached_property
  def _states(self) -> dict[str, JobState | None]:
    jobs = [job for run in self._runs if not run.finished and (job := self._recorded(run.workdir))]
    known = self._cluster.states(jobs) if jobs else {}
    return {job: known.get(job) for job in jobs}

  def _before(self, job: str) -> JobState | None:
    """Returns the state that a job had when first asked for; None where it is forgotten, or there is no job."""
    if not job:
      return None
    if job not in self._states:  # another sweep submitted it since
      self._states[job] = self._cluster.states([job]).get(job)
    return self._states[job]

  def _record(self, workdir: Path) -> Path:
    return self._folder / f"{workdir.name}.json"

  def _recorded(self, workdir: Path) -> str:
    """Returns the id of the last job of a run; empty where there was none."""
    path = self._record(workdir)
    try:
      return str(json.loads(path.read_text(encoding="utf-8"))["job"])
    except FileNotFoundError:
      return ""
    except (ValueError, KeyError, TypeError):
      raise UserError(f"{path}: expected the id of a job; see that no job of this run is on, then remove it") from None


def call(command: Sequence[str], missing: str) -> subprocess.CompletedProcess[str]:
  """Calls a command of a cluster and returns what came of it, whatever its status.

  Its process group is its own: Ctrl-C ends the waiting, not a submission half-way.

  Raises:
    UserError: there is no such command; `missing` says what to do.
    Silence: it does not answer.
  """
  try:
    return subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      errors="replace",
      timeout=_ANSWER_SECONDS,
      process_group=0,
      check=False,
    )
  except (FileNotFoundError, PermissionError):
    raise UserError(f"{command[0]}: no such command here; {missing}") from None
  except subprocess.TimeoutExpired:
    raise Silence(f"{command[0]}: no answer in {_ANSWER_SECONDS:.0f} s; is the cluster well?") from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
  """Returns in a line what a command that failed said."""
  lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
  return lines[-1] if lines else f"exit status {done.returncode}"
