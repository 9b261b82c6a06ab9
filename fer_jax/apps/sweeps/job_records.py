"""Files that record the last job of each run, so that no run is submitted twice."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime import locks, typed_json
from fer_jax.runtime.errors import UserError


@dataclass(frozen=True)
class JobRecord:
  """Record of a run's last job.

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


class JobRecords:
  """Job records of one cluster in a folder that several sweeps and clusters can share.

  Args:
    folder: Folder of the files, one for each run.
    cluster: Name of the cluster.
  """

  def __init__(self, folder: Path, cluster: str):
    self._folder = folder
    self._cluster = cluster

  def lock(self) -> TextIO:
    """Blocks until no other sweep changes the records; the lock is released when the returned file is closed."""
    return locks.acquire(self._folder / "lock", wait=True)

  def read(self, run: PlannedRun) -> JobRecord | None:
    """Returns the record of a run's last job, on any cluster; None without one."""
    path = self._path(run)
    if not path.is_file():
      return None
    advice = "check that no job of this run is queued or running, then remove the file"
    return typed_json.read(JobRecord, path, "the id of a job", advice)

  def own_job(self, run: PlannedRun) -> str:
    """Returns the id of a run's last job if it belongs to this cluster; empty otherwise."""
    record = self.read(run)
    return record.job if record and record.cluster == self._cluster else ""

  def read_own(self, run: PlannedRun) -> JobRecord | None:
    """Returns the record of a run's last job; None without one, or if it was on another cluster and has ended.

    Raises:
      UserError: The job may still be active on another cluster, or the file is damaged.
    """
    record = self.read(run)
    if record is None or record.cluster == self._cluster:
      return record
    if not record.ended:
      raise UserError(
        f"{self._path(run)}: job {record.job} of {record.cluster} may still be active, and this is {self._cluster}; "
        "continue there, or check that the job has ended and remove the file"
      )
    return None

  def write(self, run: PlannedRun, job: str) -> JobRecord:
    """Records a job that was submitted or found now."""
    record = JobRecord(job, self._cluster, time.time())
    typed_json.write(self._path(run), record)
    return record

  def mark_ended(self, run: PlannedRun, record: JobRecord) -> None:
    """Records the end of a job, unless a later job has replaced its record."""
    with self.lock():
      if self.read(run) == record:
        typed_json.write(self._path(run), replace(record, ended=True))

  def _path(self, run: PlannedRun) -> Path:
    return self._folder / f"{run.workdir.name}.json"
