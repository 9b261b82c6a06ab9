"""Runs as jobs of a cluster's queue: submitted at once, remembered, waited for."""

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

from fer_jax import locks
from fer_jax.apps.report_page.run_files import write_text
from fer_jax.apps.sweeps.executors import Outcome, Silence
from fer_jax.apps.sweeps.plan import Run
from fer_jax.errors import UserError

POLL_SECONDS = 15.0
# For what a job left to be seen on a shared disk, and for a job that left the queue to be entered into the books.
GRACE_SECONDS = 60.0
_SLICE_SECONDS = 0.2  # after which a signal is heard of
_ANSWER_SECONDS = 120.0


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


@dataclass(frozen=True)
class Record:
  """What is kept of a run's last job.

  Attributes:
    job: its id.
    place: whose id that is.
    since: when it was submitted or found, in seconds since 1970; tells jobs apart that have one name.
    ended: whether it was seen to be over.
  """

  job: str
  place: str
  since: float
  ended: bool = False


class Cluster(Protocol):
  """What a queue asks of a cluster; see slurm.py and k8s.py.

  Attributes:
    chains: whether a job can wait in the queue for another's success.
    place: what tells it from other clusters, whose jobs may have the same ids.
  """

  chains: bool
  place: str

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command that submits a run, which waits for the job `after`."""

  def submit(self, run: Run, after: str | None) -> str:
    """Submits a run; returns the job's id.

    Raises:
      Silence: there is no answer, and the run may have been submitted.
      Later: it is refused.
    """

  def on(self, run: Run) -> tuple[str, JobState] | None:
    """Returns the job of a run that is queued or running, whoever submitted it; raises Silence."""

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs by id, without those that the cluster has forgotten; raises Silence."""

  def last_words(self, job: str, run: Run, word: str) -> str:
    """Returns what a job said last of an error, whose end the cluster calls `word`; empty where that is not known."""

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command that cancels jobs."""


class Queue:
  """Executes runs as jobs of a cluster.

  A job outlives the sweep that submitted it, and so its id is kept in a file beside the runs: whichever sweep wants the
  run next finds it, and submits it again only once the job is over and the run is not finished. Where the file was not
  written, because the sweep was killed or the cluster did not answer, the job is found by its name.

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
    self._on: dict[str, tuple[Run, Record]] = {}
    self._doubtful: dict[str, float] = {}
    self._stopped = False

  def command(self, run: Run) -> list[str]:
    """Returns the command that submits the run; the id of a job that is not yet submitted is called ID."""
    after = None
    if self.chains and run.after is not None and not (run.after / "result.json").is_file():
      job = self._job(run.after)
      state = self._before(job)
      after = job if state is not None and not state.ended else "ID"
    return self._cluster.command(run, after)

  def state(self, run: Run) -> str:
    """Says where the run's job is while it is queued or running."""
    record, job = self._recorded(run.workdir), self._job(run.workdir)
    if record and not (job or record.ended):
      return f"as job {record.job} of {record.place}"
    try:
      state = self._before(job)
    except UserError as error:
      return f"as job {job} ({error})"
    return f"{state.word} as job {job}" if state is not None and not state.ended else ""

  def find(self, run: Run) -> str:
    """Takes over the recorded job of a run if it was queued or running when first asked for."""
    record = self._ours(run)
    try:
      state = self._before(record.job) if record else None
    except Silence:  # is asked again before anything is submitted
      return ""
    return self._take(run, record, state) if record and state is not None and not state.ended else ""

  def start(self, run: Run) -> str:
    """Submits a run, unless a job of it is queued or running now, whoever submitted it."""
    with locks.take(self._folder / "lock", wait=True):
      record = self._ours(run)
      state = self._cluster.states([record.job]).get(record.job) if record else None
      if record and state is not None and not state.ended:
        return self._take(run, record, state)
      if run.finished and record:  # since the launcher looked
        self._on[record.job] = run, record
        return f"job {record.job} has ended"
      if found := self._cluster.on(run):
        return self._take(run, self._write(run, self._new(found[0])), found[1])
      after = next((job for job, (other, _) in self._on.items() if other.workdir == run.after), None)
      # Its log may go when it is submitted again.
      before = f"{self._outcome(record.job, run, state).error}; " if record else ""
      submitted = self._write(run, self._new(self._cluster.submit(run, after)))
    self._on[submitted.job] = run, submitted
    return f"{before}submitted {'again ' * bool(record)}as job {submitted.job}{', goes on' * run.begun}"

  def wait(self) -> Mapping[Path, Outcome]:
    """Looks at the queue; where no job has ended, lets some time go."""
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

  def _take(self, run: Run, record: Record, state: JobState) -> str:
    self._on[record.job] = run, record
    return f"{state.word} as job {record.job} since before"

  def _look(self) -> dict[Path, Outcome]:
    if not self._on:
      return {}
    try:
      states = self._cluster.states(list(self._on))
    except Silence as error:
      print(f"warning: {error}; asking again", file=sys.stderr, flush=True)
      return {}
    ended = {}
    for job, (run, record) in list(self._on.items()):
      state = states.get(job)
      if state is not None and not state.ended:
        self._doubtful.pop(job, None)
        continue
      outcome = self._outcome(job, run, state)
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
      return Outcome(1, f"job {job} is gone from the queue" + (f": {said}" if said else ""))
    return Outcome(state.status or 1, f"job {job} ended as {state.word}" + (f": {said}" if said else ""))

  @cached_property
  def _states(self) -> dict[str, JobState | None]:
    jobs = [job for run in self._runs if not run.finished and (job := self._job(run.workdir))]
    known = self._cluster.states(jobs) if jobs else {}
    return {job: known.get(job) for job in jobs}

  def _before(self, job: str) -> JobState | None:
    """Returns the state that a job had when first asked for; None where it is forgotten, or there is no job."""
    if not job:
      return None
    if job not in self._states:  # another sweep submitted it since
      self._states[job] = self._cluster.states([job]).get(job)
    return self._states[job]

  def _path(self, workdir: Path) -> Path:
    return self._folder / f"{workdir.name}.json"

  def _recorded(self, workdir: Path) -> Record | None:
    """Returns what is kept of the last job of a run; None where there was none."""
    path = self._path(workdir)
    try:
      return Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
      return None
    except (ValueError, TypeError):
      raise UserError(f"{path}: expected the id of a job; see that no job of this run is on, then remove it") from None

  def _ours(self, run: Run) -> Record | None:
    """Returns the record of a run's last job; None where another cluster had it, and it is over."""
    record = self._recorded(run.workdir)
    if record is None or record.place == self._cluster.place:
      return record
    if not record.ended:
      raise UserError(
        f"{self._path(run.workdir)}: job {record.job} of {record.place} may be on, and this is {self._cluster.place}; "
        "go on there, or see that the job is over and remove the file"
      )
    return None

  def _new(self, job: str) -> Record:
    return Record(job, self._cluster.place, time.time())

  def _write(self, run: Run, record: Record) -> Record:
    write_text(self._path(run.workdir), json.dumps(asdict(record)) + "\n")
    return record

  def _note_end(self, run: Run, record: Record) -> None:
    with locks.take(self._folder / "lock", wait=True):
      if self._recorded(run.workdir) == record:  # and not of a later job
        self._write(run, replace(record, ended=True))

  def _job(self, workdir: Path) -> str:
    """Returns the id of the last job of a run that is this cluster's; empty where there is none."""
    record = self._recorded(workdir)
    return record.job if record and record.place == self._cluster.place else ""


def digest(run: Run) -> str:
  """Returns eight characters that tell a run's folder from all others."""
  return hashlib.sha256(str(run.workdir.absolute()).encode()).hexdigest()[:8]


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
