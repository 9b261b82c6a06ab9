"""Runs as SLURM jobs: sbatch, squeue and, on clusters with job accounting, sacct."""

import re
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.sweeps.cluster import Cluster, JobState, call, digest, error_of, query
from fer_jax.apps.sweeps.executors import NotReady, last_error
from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime.errors import UserError

SCRIPT = "launch/slurm.sbatch"
_MISSING = "expected the commands of SLURM; run the sweep on a login node"
# Flags that the sweep sets, each after a space.
_RESERVED = " --parsable --job-name --output --error --dependency --kill-on-invalid-dep --array --wait --chdir --wrap"
# A short flag that the sweep sets, such as -J, possibly after short flags without a value and followed by its value.
_RESERVED_SHORT = re.compile(r"-[HIkOQsvV]*[JoedaWD]")
# First line of launch/slurm.sbatch when a job restarts; the lines before it in the log are from an earlier start.
_RESTART = re.compile(r"begins again \(.*")
_SLURM_PREFIX = "slurmstepd: "  # of the lines that SLURM itself prints
_ENDED = re.compile("BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|REVOKED|TIMEOUT")
_QUEUED = re.compile("PENDING|CONFIGURING|REQUEUED|REQUEUE_FED|REQUEUE_HOLD|RESV_DEL_HOLD|SPECIAL_EXIT")


class Slurm(Cluster):
  """Submits runs with sbatch.

  Args:
    flags: Flags of sbatch, optionally followed by "--" and flags of launch/slurm.sbatch.
    folder: Folder for the output of the jobs.

  Raises:
    UserError: A flag is one that the sweep sets itself, or it is not written as expected.
  """

  dependencies = True

  def __init__(self, flags: Sequence[str], folder: Path):
    split = [*flags, "--"].index("--")
    self._flags, self._script_flags = flags[:split], flags[split + 1 :]
    self._folder = folder
    for flag in self._flags:
      name = flag.partition("=")[0]
      # sbatch accepts unambiguous abbreviations of long flags.
      if (len(name) > 2 and f" {name}" in _RESERVED) or _RESERVED_SHORT.match(flag):
        raise UserError(f"--sbatch: {flag}: a sweep sets the names, output and order of its jobs; leave it out")
      if not flag.startswith("-"):
        raise UserError(f"--sbatch: {flag!r}: expected flags of sbatch written --FLAG=VALUE")
      if flag.startswith("-M") or (len(name) > 3 and "--clusters".startswith(name) and name != "--clusters"):
        raise UserError(f"--sbatch: {flag}: expected the clusters written --clusters=NAME")
    # squeue, sacct and scancel need the cluster, too. Of repeated flags sbatch uses the last.
    self._clusters = [flag for flag in self._flags if flag.startswith("--clusters=")][-1:]
    self.name = " ".join(["slurm", *self._clusters])

  def command(self, run: PlannedRun, after: str | None) -> list[str]:
    """Returns the command line of sbatch."""
    # %j is the job's id; any other percent sign of the path is escaped.
    output = str(self._folder / f"{run.workdir.name}.").replace("%", "%%") + "%j.log"
    depends = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    named = [f"--job-name={job_name(run)}", f"--output={output}", *depends]
    return ["sbatch", "--parsable", *self._flags, *named, SCRIPT, *self._script_flags, "--", *run.arguments]

  def submit(self, run: PlannedRun, after: str | None) -> str:
    """Submits a run with sbatch and returns the job's id."""
    if not Path(SCRIPT).is_file():
      raise UserError(f"{SCRIPT}: not found; run the sweep from the repository's root")
    self._folder.mkdir(parents=True, exist_ok=True)
    done = call(self.command(run, after), _MISSING)
    words = done.stdout.split()
    job = words[-1].partition(";")[0] if words else ""  # with several clusters the output is ID;CLUSTER
    if done.returncode or not re.fullmatch(r"\d+", job):
      raise NotReady(f"{run.title} cannot be submitted: {error_of(done)} (fix the cause, or the flags in --sbatch)")
    return job

  def jobs_of(self, run: PlannedRun) -> dict[str, JobState]:
    """Returns the states of the queued and running jobs with the run's name."""
    return self._squeue(f"--name={job_name(run)}")

  def _squeue(self, selection: str) -> dict[str, JobState]:
    return _read(query(["squeue", "--noheader", "--me", *self._clusters, "--format=%i|%T", selection], _MISSING))

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs by id."""
    found = {job: state for job, state in self._squeue("--states=all").items() if job in jobs}
    # squeue lists a job for some minutes after its end. Later its state is read from sacct, if there is accounting.
    if others := [job for job in jobs if job not in found]:
      command = ["sacct", "--noheader", "--parsable2", "--allocations", *self._clusters, "--format=JobIDRaw,State"]
      try:
        accounted = call([*command, f"--jobs={','.join(others)}"], _MISSING)
      except UserError:  # no sacct: the cluster has no accounting
        return found
      # A job that has left the queue is not active. If sacct still lists it as active, its record is not updated yet.
      found |= {job: state for job, state in _read(accounted.stdout).items() if job in others and state.ended}
    return found

  def last_message(self, job: str, run: PlannedRun, state: str) -> str:
    """Returns the last error message in the job's log since its last start, or the last line.

    For a job that SLURM itself ended (any `state` but "FAILED"), the job's own output does not explain the end; then
    the last line printed by SLURM is returned, or an empty string.
    """
    try:
      text = (self._folder / f"{run.workdir.name}.{job}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
      return ""
    lines = text.splitlines()
    start = max((number for number, line in enumerate(lines, start=1) if _RESTART.fullmatch(line)), default=0)
    if state in ("", "FAILED"):
      return last_error(lines[start:])
    return last_error(line.removeprefix(_SLURM_PREFIX) for line in lines[start:] if line.startswith(_SLURM_PREFIX))

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command line of scancel."""
    return ["scancel", *self._clusters, *jobs]


def job_name(run: PlannedRun) -> str:
  """Returns a job name that is unique to the run's folder."""
  return f"{run.workdir.name}-{digest(run)}"


def _read(text: str) -> dict[str, JobState]:
  """Parses lines ID|STATE; a state can be followed by further words, as in "CANCELLED by 1000", or end with a "+"."""
  rows = (line.strip().split("|") for line in text.splitlines() if "|" in line)
  return {row[0]: _state(row[1].split()[0].rstrip("+")) for row in rows if row[1].split()}


def _state(name: str) -> JobState:
  if _ENDED.fullmatch(name):
    return JobState(name, ended=True, status=0 if name == "COMPLETED" else None)
  return JobState("queued" if _QUEUED.fullmatch(name) else "running")
