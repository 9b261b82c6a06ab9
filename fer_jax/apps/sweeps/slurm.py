"""Jobs of SLURM: sbatch, squeue and, where the cluster keeps accounts, sacct."""

import re
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.sweeps.executors import last_error
from fer_jax.apps.sweeps.plan import Run
from fer_jax.apps.sweeps.queues import JobState, Silence, call, complaint
from fer_jax.errors import UserError

SCRIPT = "launch/slurm.sbatch"
_MISSING = "expected SLURM's; run the sweep where they are, on a login node"
_OURS = (
  *("--parsable", "--job-name", "--output", "--error", "--dependency", "--kill-on-invalid-dep", "--array", "--wait"),
  *("--chdir", "--wrap", "-J", "-o", "-e", "-d", "-a", "-W", "-D"),
)
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
      if flag.partition("=")[0] in _OURS:
        raise UserError(f"--sbatch: {flag}: a sweep gives its jobs names, output and order itself; leave it out")
      if not flag.startswith("-"):
        raise UserError(f"--sbatch: {flag!r}: expected flags of sbatch written --FLAG=VALUE")

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command line of sbatch."""
    output = str(self._folder / f"{run.workdir.name}.").replace("%", "%%") + "%j.log"
    depends = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    named = [f"--job-name={run.workdir.name}", f"--output={output}", *depends]
    return ["sbatch", "--parsable", *self._flags, *named, SCRIPT, *self._script_flags, "--", *run.arguments]

  def submit(self, run: Run, after: str | None) -> str:
    """Submits a run; returns the job's id. Raises UserError where sbatch refuses it."""
    if not Path(SCRIPT).is_file():
      raise UserError(f"{SCRIPT}: not found; run the sweep in the repository's folder")
    self._folder.mkdir(parents=True, exist_ok=True)
    done = call(self.command(run, after), _MISSING)
    words = done.stdout.split()
    job = words[-1].partition(";")[0] if words else ""  # ID;CLUSTER of a federation
    if done.returncode or not re.fullmatch(r"\d+", job):
      raise UserError(
        f"{run.title} cannot be submitted: {complaint(done)}; mend --sbatch and run the same command to go on"
      )
    return job

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of jobs; raises Silence where squeue gives none.

    squeue shows a job for some minutes after its end, sacct ever after, where there are accounts.
    """
    queue = call(["squeue", "--noheader", "--me", "--states=all", "--format=%i|%T"], _MISSING)
    if queue.returncode:
      raise Silence(f"squeue: {complaint(queue)}")
    found = _read(queue.stdout, jobs)
    if others := [job for job in jobs if job not in found]:
      command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,State"]
      try:
        books = call([*command, f"--jobs={','.join(others)}"], _MISSING)
      except UserError:  # no accounts are kept
        return found
      # What has left the queue is not going on, whatever the books say that were not yet written.
      found |= {job: state for job, state in _read(books.stdout, others).items() if state.ended}
    return found

  def last_words(self, job: str, run: Run) -> str:
    """Returns the last line of the job's output that names an error, or the last line."""
    try:
      text = (self._folder / f"{run.workdir.name}.{job}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
      return ""
    return last_error(text.splitlines())

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command line of scancel."""
    return ["scancel", *jobs]


def _read(text: str, jobs: Sequence[str]) -> dict[str, JobState]:
  """Reads lines ID|STATE; a state may have a word behind it, as in "CANCELLED by 1000"."""
  rows = (line.strip().split("|") for line in text.splitlines() if "|" in line)
  return {row[0]: _state(row[1].split()[0].rstrip("+")) for row in rows if row[0] in jobs and row[1].split()}


def _state(word: str) -> JobState:
  if word == "COMPLETED":
    return JobState(word, ended=True, status=0)
  return JobState(word, ended=True) if word in _ENDED else JobState("queued" if word in _QUEUED else "running")
