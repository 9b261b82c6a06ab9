"""Interface of a cluster, and the execution of its commands; slurm.py and k8s.py implement it."""

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fer_jax.apps.sweeps.executors import NoResponse
from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime.errors import UserError

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class JobState:
  """State of a job.

  Attributes:
    name: State as "queued", "running", or the cluster's name of the final state.
    ended: Whether the job has ended.
    status: Exit status of an ended job; None if unknown.
  """

  name: str
  ended: bool = False
  status: int | None = None


class Cluster(Protocol):
  """Interface of a cluster. All methods that execute a command can raise UserError, and NoResponse if it times out.

  Attributes:
    name: Identifier of the cluster, because other clusters can have jobs with the same ids.
    dependencies: Whether a job can depend on the success of another job in the queue.
  """

  name: str
  dependencies: bool = False

  def command(self, run: PlannedRun, after: str | None) -> list[str]:
    """Returns the command that submits a run; if `after` is given, the run depends on the success of that job."""

  def submit(self, run: PlannedRun, after: str | None) -> str:
    """Submits a run and returns the job's id.

    Raises:
      NoResponse: The cluster did not respond; the run may have been submitted.
      NotReady: The cluster rejected the run.
      UserError: The script of the runs does not exist.
    """

  def jobs_of(self, run: PlannedRun) -> dict[str, JobState]:
    """Returns the states of a run's jobs by id, also of those that another sweep submitted; raises NoResponse."""

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs by id, without jobs that the cluster no longer lists; raises NoResponse."""

  def last_message(self, job: str, run: PlannedRun, state: str) -> str:
    """Returns the last error message of a job that ended in a state of this name; empty if there is none."""

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command that cancels jobs."""


def digest(run: PlannedRun) -> str:
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
      timeout=_TIMEOUT_SECONDS,
      process_group=0,
      check=False,
    )
  except (FileNotFoundError, PermissionError):
    raise UserError(f"{command[0]}: command not found; {missing}") from None
  except subprocess.TimeoutExpired:
    raise NoResponse(f"{command[0]}: timed out after {_TIMEOUT_SECONDS:.0f} s; is the cluster reachable?") from None


def query(command: Sequence[str], missing: str) -> str:
  """Returns the output of a command of a cluster; raises NoResponse if it fails, and the errors of `call`."""
  done = call(command, missing)
  if done.returncode:
    raise NoResponse(f"{command[0]}: {error_of(done)}")
  return done.stdout


def error_of(done: subprocess.CompletedProcess[str]) -> str:
  """Returns the last line that a failed command printed, or its exit status if it printed nothing."""
  lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
  return lines[-1].removeprefix("error: ") if lines else f"exit status {done.returncode}"
