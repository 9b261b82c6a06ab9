"""Executes runs as jobs of a cluster's queue: submits them, records their ids, and waits for their end."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TextIO

from fer_jax.apps.sweeps.cluster import Cluster, JobState
from fer_jax.apps.sweeps.executors import Executor, NoResponse, Outcome
from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime import locks, typed_json
from fer_jax.runtime.errors import UserError

POLL_SECONDS = 15.0
# Time for a job's files to appear on a shared disk, and for a job that has left the queue to appear in the accounting.
GRACE_SECONDS = 60.0
_SLICE_SECONDS = 0.2  # maximum delay until a signal ends the waiting


@dataclass(frozen=True)
class JobRecord:
  """Stored record of a run's last job.

  Attributes:
    job: Id of the job.
    cluster: Name of the cluster that the id belongs to; see `Cluster.name`.
    since: Time at which the job was submitted or found, in seconds since 1970; distinguishes jobs with the same id.
    ended: Whether the job is known to have ended.
  """

  job: str
  cluster: str = field(metadata={"keys": ("cluster", "place")})
  since: float
  ended: bool = False


class Queue(Executor):
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

  concurrent = True

  def __init__(
    self,
    cluster: Cluster,
    folder: Path,
    runs: Sequence[PlannedRun],
    poll_seconds: float = POLL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
  ):
    self.dependencies = cluster.dependencies
    self._cluster = cluster
    self._folder = folder
    self._runs = runs
    self._poll_seconds = poll_seconds
    self._grace_seconds = grace_seconds
    self._active: dict[str, tuple[PlannedRun, JobRecord]] = {}  # active jobs of this sweep, by id
    self._grace_start: dict[str, float] = {}  # by job id
    self._stopped = False

  def command(self, run: PlannedRun) -> list[str]:
    """Returns the command that submits the run; a dependency that has no job yet is written as ID."""
    after = None
    source = next((other for other in self._runs if other.workdir == run.init_from), None)
    if self.dependencies and source is not None and not source.finished:
      record = self._record(source)
      after = record.job if record and self._first_state(record.job) else "ID"
    return self._cluster.command(run, after)

  def adopt(self, run: PlannedRun) -> str:
    """Adopts the recorded job of a run if it was queued or running at the first query; returns its state and id."""
    record = self._record(run)
    state = self._first_state(record.job) if record else None
    return self._take(run, record, state) if record and state else ""

  def start(self, run: PlannedRun) -> str:
    """Submits a run, unless a job of it is queued or running, possibly of another sweep; that job is then adopted."""
    with self._lock():
      record = self._record(run)
      # The state is queried under the lock: another sweep may have submitted the run since adopt().
      state = self._cluster.states([record.job]).get(record.job) if record else None
      if record and state and not state.ended:
        return self._take(run, record, state)
      if run.finished and record:  # finished since the launcher checked
        self._active[record.job] = run, record
        return f"job {record.job} has ended"
      for job, found in self._cluster.jobs_of(run).items():
        if not found.ended:
          return self._take(run, self._write(run, job), found)
      after = next((job for job, (other, _) in self._active.items() if other.workdir == run.init_from), None)
      # The outcome of the last job is read first: submitting again can delete its log.
      earlier = f"{self._outcome(record.job, run, state).error}; " if record else ""
      submitted = self._write(run, self._cluster.submit(run, after))
    self._active[submitted.job] = run, submitted
    return f"{earlier}submitted {'again ' * bool(record)}as job {submitted.job}{', resumes' * run.started}"

  def wait(self) -> Mapping[Path, Outcome]:
    """Queries the queue; if no job has ended, sleeps until the next query is due or `stop` is called."""
    if ended := self._query():
      return ended
    until = time.monotonic() + self._poll_seconds
    while not self._stopped and (left := until - time.monotonic()) > 0:
      time.sleep(min(left, _SLICE_SECONDS))
    return {}

  def stop(self, signum: int) -> None:
    """Ends the waiting; the jobs continue."""
    self._stopped = True

  def remaining(self) -> str:
    """Returns the number of active jobs and the command that cancels them; empty without active jobs."""
    if not self._active:
      return ""
    count = f"{len(self._active)} job{'s continue' if len(self._active) > 1 else ' continues'}"
    return f"{count}; to cancel: {' '.join(self._cluster.cancel(list(self._active)))}"

  def _take(self, run: PlannedRun, record: JobRecord, state: JobState) -> str:
    self._active[record.job] = run, record
    return f"{state.name} as job {record.job}, submitted earlier"

  def _query(self) -> dict[Path, Outcome]:
    """Returns the outcomes, by workdir, of the jobs that have ended since the last query."""
    if not self._active:
      return {}
    try:
      states = self._cluster.states(list(self._active))
    except NoResponse as error:
      print(f"warning: {error}; trying again", file=sys.stderr, flush=True)
      return {}
    ended = {}
    for job, (run, record) in list(self._active.items()):
      state = states.get(job)
      if state and not state.ended:
        self._grace_start.pop(job, None)
        continue
      outcome = self._outcome(job, run, state)
      # A missing job or a missing result may only be delayed; any other end is final.
      if (state is None or outcome.status == 0) and not run.finished and self._in_grace(job):
        continue
      del self._active[job]
      ended[run.workdir] = outcome
      if state:
        with self._lock():
          if self._any_record(run) == record:  # not replaced by the record of a later job
            typed_json.write(self._path(run), replace(record, ended=True))
    return ended

  def _in_grace(self, job: str) -> bool:
    now = time.monotonic()
    return now - self._grace_start.setdefault(job, now) < self._grace_seconds

  def _outcome(self, job: str, run: PlannedRun, state: JobState | None) -> Outcome:
    if run.finished or (state and state.status == 0):
      return Outcome(0, f"job {job} ended without a result.json")
    message = self._cluster.last_message(job, run, state.name if state else "")
    end = f"ended as {state.name}" if state else "is no longer in the queue"
    return Outcome((state and state.status) or 1, ": ".join(filter(None, (f"job {job} {end}", message))))

  @cached_property
  def _first_states(self) -> dict[str, JobState | None]:
    """States of the recorded jobs of all unfinished runs, queried once; None for jobs that are no longer listed."""
    records = [self._any_record(run) for run in self._runs if not run.finished]
    jobs = [record.job for record in records if record and record.cluster == self._cluster.name]
    known = self._cluster.states(jobs) if jobs else {}
    return {job: known.get(job) for job in jobs}

  def _first_state(self, job: str) -> JobState | None:
    """Returns the state of a job that was queued or running at the first query; None otherwise."""
    if job not in self._first_states:  # another sweep submitted it since
      self._first_states[job] = self._cluster.states([job]).get(job)
    state = self._first_states[job]
    return None if state is None or state.ended else state

  def _path(self, run: PlannedRun) -> Path:
    return self._folder / f"{run.workdir.name}.json"

  def _lock(self) -> TextIO:
    """Blocks until no other sweep changes the records; closing the returned file releases the lock."""
    return locks.acquire(self._folder / "lock", wait=True)

  def _record(self, run: PlannedRun) -> JobRecord | None:
    """Returns the record of a run's last job; None without one, or if another cluster ran it and it has ended."""
    record, cluster = self._any_record(run), self._cluster.name
    if record and record.cluster != cluster and not record.ended:
      raise UserError(
        f"{self._path(run)}: job {record.job} of {record.cluster} may still be active, and this is {cluster}; "
        "continue there, or check that the job has ended and remove the file"
      )
    return record if record and record.cluster == cluster else None

  def _any_record(self, run: PlannedRun) -> JobRecord | None:
    """Returns the record of a run's last job on any cluster."""
    advice = "check that no job of this run is queued or running, then remove the file"
    path = self._path(run)
    return typed_json.read(JobRecord, path, "the id of a job", advice) if path.is_file() else None

  def _write(self, run: PlannedRun, job: str) -> JobRecord:
    """Records a job that was submitted or found now."""
    record = JobRecord(job, self._cluster.name, time.time())
    typed_json.write(self._path(run), record)
    return record
