"""Executes runs as jobs of a cluster's queue: submits them, records their ids, and waits for their end."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fer_jax.apps.sweeps.executors import NoResponse, Outcome
from fer_jax.apps.sweeps.plan import Run
from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import write_text

POLL_SECONDS = 15.0
# Time for a job's files to appear on a shared disk, and for a job that has left the queue to appear in the accounting.
GRACE_SECONDS = 60.0
_SLICE_SECONDS = 0.2  # maximum delay until a signal ends the waiting
_ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class JobState:
  """State of a job.

  Attributes:
    word: State as "queued", "running", or the cluster's name of the final state.
    ended: Whether the job has ended.
    status: Exit status of an ended job; None if unknown.
  """

  word: str
  ended: bool = False
  status: int | None = None


@dataclass(frozen=True)
class Record:
  """Stored record of a run's last job.

  Attributes:
    job: Id of the job.
    place: Cluster that the id belongs to, see `Cluster.place`.
    since: Time at which the job was submitted or found, in seconds since 1970; distinguishes jobs with the same id.
    ended: Whether the job is known to have ended.
  """

  job: str
  place: str
  since: float
  ended: bool = False


class Cluster(Protocol):
  """Interface of a cluster; see slurm.py and k8s.py.

  Attributes:
    chains: Whether a job can depend on the success of another job in the queue.
    place: Identifier of the cluster, because other clusters can have jobs with the same ids.
  """

  chains: bool
  place: str

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command that submits a run; if `after` is given, the run depends on the success of that job."""

  def submit(self, run: Run, after: str | None) -> str:
    """Submits a run and returns the job's id.

    Raises:
      NoResponse: The cluster did not respond; the run may have been submitted.
      NotReady: The cluster rejected the run.
    """

  def on(self, run: Run) -> tuple[str, JobState] | None:
    """Returns the id and the state of a run's queued or running job, also of another sweep; raises NoResponse."""

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs by id, without jobs that the cluster no longer lists; raises NoResponse."""

  def last_words(self, job: str, run: Run, word: str) -> str:
    """Returns the last error message of a job that ended in the state `word`; empty if there is none."""

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command that cancels jobs."""


class Queue:
  """Executes runs as jobs of a cluster.

  A job outlives the sweep that submitted it, so its id is stored in a file next to the runs. The next sweep with the
  same run reads the file and submits the run again only if the job has ended and the run has not finished. If the file
  was not written, because the sweep was killed or the cluster did not respond, the job is found by its name.

  Args:
    cluster: Cluster to submit to.
    folder: Folder of the files with job ids.
    runs: Runs of the sweep; the states of their jobs are queried with a single command.
    poll_seconds: Seconds between two queries of the queue.
    grace_seconds: Seconds until a job that ended successfully without a result, or that the cluster no longer lists,
      counts as failed.
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
    self._on: dict[str, tuple[Run, Record]] = {}  # active jobs of this sweep, by id
    self._doubtful: dict[str, float] = {}  # job id -> when its grace period began
    self._stopped = False

  def command(self, run: Run) -> list[str]:
    """Returns the command that submits the run; a dependency that has no job yet is written as ID."""
    after = None
    if self.chains and run.after is not None and not (run.after / "result.json").is_file():
      job = self._job(run.after)
      state = self._before(job)
      after = job if state is not None and not state.ended else "ID"
    return self._cluster.command(run, after)

  def state(self, run: Run) -> str:
    """Returns the state and the id of the run's job if it is queued or running; empty otherwise."""
    record, job = self._recorded(run.workdir), self._job(run.workdir)
    if record and not (job or record.ended):  # a job of another cluster, whose state cannot be queried here
      return f"as job {record.job} of {record.place}"
    try:
      state = self._before(job)
    except UserError as error:
      return f"as job {job} ({error})"
    return f"{state.word} as job {job}" if state is not None and not state.ended else ""

  def find(self, run: Run) -> str:
    """Adopts the recorded job of a run if it was queued or running at the first query."""
    record = self._ours(run)
    try:
      state = self._before(record.job) if record else None
    except NoResponse:  # start() queries again before it submits anything
      return ""
    return self._take(run, record, state) if record and state is not None and not state.ended else ""

  def start(self, run: Run) -> str:
    """Submits a run, unless a job of it is queued or running, possibly of another sweep; that job is then adopted."""
    with locks.acquire(self._folder / "lock", wait=True):
      record = self._ours(run)
      # The state is queried under the lock: another sweep may have submitted the run since find().
      state = self._cluster.states([record.job]).get(record.job) if record else None
      if record and state is not None and not state.ended:
        return self._take(run, record, state)
      if run.finished and record:  # finished since the launcher checked
        self._on[record.job] = run, record
        return f"job {record.job} has ended"
      if found := self._cluster.on(run):
        return self._take(run, self._write(run, self._new(found[0])), found[1])
      after = next((job for job, (other, _) in self._on.items() if other.workdir == run.after), None)
      # The outcome of the last job is read first: submitting again can delete its log.
      before = f"{self._outcome(record.job, run, state).error}; " if record else ""
      submitted = self._write(run, self._new(self._cluster.submit(run, after)))
    self._on[submitted.job] = run, submitted
    return f"{before}submitted {'again ' * bool(record)}as job {submitted.job}{', goes on' * run.begun}"

  def wait(self) -> Mapping[Path, Outcome]:
    """Queries the queue; if no job has ended, sleeps until the next query is due or `stop` is called."""
    if ended := self._look():
      return ended
    until = time.monotonic() + self._poll_seconds
    while not self._stopped and (left := until - time.monotonic()) > 0:
      time.sleep(min(left, _SLICE_SECONDS))
    return {}

  def stop(self, signum: int) -> None:
    """Ends the waiting; the jobs continue."""
    del signum
    self._stopped = True

  def left(self) -> str:
    """Returns the number of active jobs and the command that cancels them; empty without active jobs."""
    if not self._on:
      return ""
    count = f"{len(self._on)} job{'s go' if len(self._on) > 1 else ' goes'} on"
    return f"{count}; to cancel: {' '.join(self._cluster.cancel(list(self._on)))}"

  def _take(self, run: Run, record: Record, state: JobState) -> str:
    self._on[record.job] = run, record
    return f"{state.word} as job {record.job}, submitted earlier"

  def _look(self) -> dict[Path, Outcome]:
    if not self._on:
      return {}
    try:
      states = self._cluster.states(list(self._on))
    except NoResponse as error:
      print(f"warning: {error}; trying again", file=sys.stderr, flush=True)
      return {}
    ended = {}
    for job, (run, record) in list(self._on.items()):
      state = states.get(job)
      if state is not None and not state.ended:
        self._doubtful.pop(job, None)
        continue
      outcome = self._outcome(job, run, state)
      # A missing job or a missing result may only be delayed; any other end is final.
      if (state is None or outcome.status == 0) and not run.finished and self._in_grace(job):
        continue
      del self._on[job]
      ended[run.workdir] = outcome
      if state is not None:
        self._note_end(run, record)
    return ended

  def _in_grace(self, job: str) -> bool:
    now = time.monotonic()
    return now - self._doubtful.setdefault(job, now) < self._grace_seconds

  def _outcome(self, job: str, run: Run, state: JobState | None) -> Outcome:
    if run.finished or (state is not None and state.status == 0):
      return Outcome(0, f"job {job} ended without a result.json")
    said = self._cluster.last_words(job, run, state.word if state is not None else "")
    if state is None:
      return Outcome(1, f"job {job} is no longer in the queue" + (f": {said}" if said else ""))
    return Outcome(state.status or 1, f"job {job} ended as {state.word}" + (f": {said}" if said else ""))

  @cached_property
  def _states(self) -> dict[str, JobState | None]:
    """States of the recorded jobs of all unfinished runs, queried once; None for jobs that are no longer listed."""
    jobs = [job for run in self._runs if not run.finished and (job := self._job(run.workdir))]
    known = self._cluster.states(jobs) if jobs else {}
    return {job: known.get(job) for job in jobs}

  def _before(self, job: str) -> JobState | None:
    """Returns the state of a job at the first query; None if it is no longer listed or `job` is empty."""
    if not job:
      return None
    if job not in self._states:  # another sweep submitted it since
      self._states[job] = self._cluster.states([job]).get(job)
    return self._states[job]

  def _path(self, workdir: Path) -> Path:
    return self._folder / f"{workdir.name}.json"

  def _recorded(self, workdir: Path) -> Record | None:
    """Returns the stored record of a run's last job; None without one."""
    path = self._path(workdir)
    try:
      return Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
      return None
    except (ValueError, TypeError):
      raise UserError(
        f"{path}: expected the id of a job; check that no job of this run is queued or running, then remove the file"
      ) from None

  def _ours(self, run: Run) -> Record | None:
    """Returns the record of a run's last job; None without one, or if another cluster ran it and it has ended."""
    record = self._recorded(run.workdir)
    if record is None or record.place == self._cluster.place:
      return record
    if not record.ended:
      raise UserError(
        f"{self._path(run.workdir)}: job {record.job} of {record.place} may still be active, and this is "
        f"{self._cluster.place}; continue there, or check that the job has ended and remove the file"
      )
    return None

  def _new(self, job: str) -> Record:
    return Record(job, self._cluster.place, time.time())

  def _write(self, run: Run, record: Record) -> Record:
    write_text(self._path(run.workdir), json.dumps(asdict(record)) + "\n")
    return record

  def _note_end(self, run: Run, record: Record) -> None:
    with locks.acquire(self._folder / "lock", wait=True):
      if self._recorded(run.workdir) == record:  # not replaced by the record of a later job
        self._write(run, replace(record, ended=True))

  def _job(self, workdir: Path) -> str:
    """Returns the id of a run's last job if it belongs to this cluster; empty otherwise."""
    record = self._recorded(workdir)
    return record.job if record and record.place == self._cluster.place else ""


def digest(run: Run) -> str:
  """Returns eight hexadecimal digits that identify a run's folder."""
  return hashlib.sha256(str(run.workdir.absolute()).encode()).hexdigest()[:8]


def call(command: Sequence[str], missing: str) -> subprocess.CompletedProcess[str]:
  """Executes a command of a cluster and returns the completed process, whatever its exit status.

  The command has its own process group, so that Ctrl-C ends the waiting and does not interrupt a submission.

  Args:
    command: Command and its arguments.
    missing: Advice for the error message if the command does not exist.

  Raises:
    UserError: The command does not exist.
    NoResponse: The command timed out.
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
    raise UserError(f"{command[0]}: command not found; {missing}") from None
  except subprocess.TimeoutExpired:
    raise NoResponse(f"{command[0]}: timed out after {_ANSWER_SECONDS:.0f} s; is the cluster reachable?") from None


def complaint(done: subprocess.CompletedProcess[str]) -> str:
  """Returns the last line that a failed command printed, or its exit status if it printed nothing."""
  lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
  return lines[-1] if lines else f"exit status {done.returncode}"
