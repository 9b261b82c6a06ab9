"""Jobs of SLURM: sbatch, squeue and, where the cluster keeps accounts, sacct."""

import re
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.sweeps.executors import Later, Silence, last_error
from fer_jax.apps.sweeps.plan import Run
from fer_jax.apps.sweeps.queues import JobState, call, complaint, digest
from fer_jax.errors import UserError

SCRIPT = "launch/slurm.sbatch"
_MISSING = "expected SLURM's; run the sweep where they are, on a login node"
_OURS = (
  *("--parsable", "--job-name", "--output", "--error", "--dependency", "--kill-on-invalid-dep", "--array", "--wait"),
  *("--chdir", "--wrap"),
)
_OURS_SHORT = re.compile(r"-[HIkOQsvV]*[JoedaWD]")  # behind others that take no value, and with its own behind it
# What launch/slurm.sbatch says first when a job is there again: what stands before in its log is of another time.
_AGAIN = re.compile(r"begins again \(.*")
_OF_SLURM = "slurmstepd: "
_ENDED = (
  *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"),
  "TIMEOUT",
)
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


class Slurm:
  """Submits runs with sbatch.

  Args:
    flags: of sbatch, and behind a "--" those of launch/slurm.sbatch.
    folder: of the jobs' output.

  Raises:
    UserError: a flag is one that the sweep itself gives.
  """

  chains = True

  def __init__(self, flags: Sequence[str], folder: Path):
    split = [*flags, "--"].index("--")
    self._flags, self._script_flags = flags[:split], flags[split + 1 :]
    self._folder = folder
    for flag in self._flags:
      name = flag.partition("=")[0]
      abbreviates = len(name) > 2 and any(ours.startswith(name) for ours in _OURS)
      if abbreviates or _OURS_SHORT.match(flag):
        raise UserError(f"--sbatch: {flag}: a sweep gives its jobs names, output and order itself; leave it out")
      if not flag.startswith("-"):
        raise UserError(f"--sbatch: {flag!r}: expected flags of sbatch written --FLAG=VALUE")
      if flag.startswith("-M") or (len(name) > 3 and "--clusters".startswith(name) and name != "--clusters"):
        raise UserError(f"--sbatch: {flag}: expected the clusters written --clusters=NAME")
    self._clusters = [flag for flag in self._flags if flag.startswith("--clusters=")][-1:]
    self.place = " ".join(["slurm", *self._clusters])

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command line of sbatch."""
    output = str(self._folder / f"{run.workdir.name}.").replace("%", "%%") + "%j.log"
    depends = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    named = [f"--job-name={job_name(run)}", f"--output={output}", *depends]
    return ["sbatch", "--parsable", *self._flags, *named, SCRIPT, *self._script_flags, "--", *run.arguments]

  def submit(self, run: Run, after: str | None) -> str:
    """Submits a run; returns the job's id. Raises Later where sbatch refuses it, Silence where it does not answer."""
    if not Path(SCRIPT).is_file():
      raise UserError(f"{SCRIPT}: not found; run the sweep in the repository's folder")
    self._folder.mkdir(parents=True, exist_ok=True)
    done = call(self.command(run, after), _MISSING)
    words = done.stdout.split()
    job = words[-1].partition(";")[0] if words else ""  # ID;CLUSTER of a federation
    if done.returncode or not re.fullmatch(r"\d+", job):
      raise Later(f"{run.title} cannot be submitted: {complaint(done)} (mend that or --sbatch)")
    return job

  def on(self, run: Run) -> tuple[str, JobState] | None:
    """Returns the job of a run's name that is queued or running; raises Silence where squeue does not say."""
    asked = call([*self._squeue(), f"--name={job_name(run)}"], _MISSING)
    if asked.returncode:
      raise Silence(f"squeue: {complaint(asked)}")
    found = _read(asked.stdout)
    return next(((job, state) for job, state in found.items() if not state.ended), None)

  def _squeue(self) -> list[str]:
    return ["squeue", "--noheader", "--me", *self._clusters, "--format=%i|%T"]

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs; raises Silence where squeue gives none.

    squeue shows a job for some minutes after its end, sacct ever after, where there are accounts.
    """
    queue = call([*self._squeue(), "--states=all"], _MISSING)
    if queue.returncode:
      raise Silence(f"squeue: {complaint(queue)}")
    found = {job: state for job, state in _read(queue.stdout).items() if job in jobs}
    if others := [job for job in jobs if job not in found]:
      command = ["sacct", "--noheader", "--parsable2", "--allocations", *self._clusters, "--format=JobIDRaw,State"]
      try:
        books = call([*command, f"--jobs={','.join(others)}"], _MISSING)
      except UserError:  # no accounts are kept
        return found
      # What has left the queue is not going on, whatever the books say that were not yet written.
      found |= {job: state for job, state in _read(books.stdout).items() if job in others and state.ended}
    return found

  def last_words(self, job: str, run: Run, word: str) -> str:
    """Returns the last line that names an error, or the last line, since the job was there last.

    What SLURM itself ended has not failed by what it said: then it is the last line that SLURM said, if any.
    """
    try:
      text = (self._folder / f"{run.workdir.name}.{job}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
      return ""
    lines = text.splitlines()
    begin = max((number for number, line in enumerate(lines, start=1) if _AGAIN.fullmatch(line)), default=0)
    if word in ("", "FAILED"):
      return last_error(lines[begin:])
    return last_error(line.removeprefix(_OF_SLURM) for line in lines[begin:] if line.startswith(_OF_SLURM))

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command line of scancel."""
    return ["scancel", *self._clusters, *jobs]


def job_name(run: Run) -> str:
  """Returns a name that no run with another folder has."""
  return f"{run.workdir.name}-{digest(run)}"


def _read(text: str) -> dict[str, JobState]:
  """Reads lines ID|STATE; a state may have a word behind it, as in "CANCELLED by 1000"."""
  rows = (line.strip().split("|") for line in text.splitlines() if "|" in line)
  return {row[0]: _state(row[1].split()[0].rstrip("+")) for row in rows if row[1].split()}


def _state(word: str) -> JobState:
  if word == "COMPLETED":
    return JobState(word, ended=True, status=0)
  return JobState(word, ended=True) if word in _ENDED else JobState("queued" if word in _QUEUED else "running")
