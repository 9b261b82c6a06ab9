"""Jobs of Kubernetes: a JobSet a run, made by launch/k8s/train.sh."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.apps.sweeps.executors import Later, Silence, last_error
from fer_jax.apps.sweeps.plan import Run
from fer_jax.apps.sweeps.queues import JobState, call, complaint, digest
from fer_jax.errors import UserError

SCRIPT = "launch/k8s/train.sh"
STORAGE = Path("/storage")  # where its pods have the volume
_MISSING = "install it and have it know the cluster"
_OURS = ("--name", "--dry-run", "--")
_NAME_LENGTH = 40  # of 63 that a pod's host name may have: JobSet adds the job's name and two numbers


class Kubernetes:
  """Makes a JobSet of each run.

  Args:
    flags: of launch/k8s/train.sh.
    workdir: of all sweeps, on the volume that all pods share and that this machine has at the same place.

  Raises:
    UserError: a flag is one that the sweep itself gives, or the pods would not share a volume.
  """

  chains = False

  def __init__(self, flags: Sequence[str], workdir: Path):
    if STORAGE not in workdir.parents:
      raise UserError(
        f"--workdir={workdir}: with Kubernetes expected a folder below {STORAGE}, where pods have the volume, and have "
        f"to have it here, too: --workdir={STORAGE / 'sweeps'}"
      )
    if not any(flag.startswith("--claim=") for flag in flags):
      raise UserError(
        "--k8s: expected --claim=CLAIM among its flags: without it each run would have a volume of its own"
      )
    for flag in flags:
      if flag.partition("=")[0] in _OURS:
        raise UserError(f"--k8s: {flag}: a sweep gives its jobs names and arguments itself; leave it out")
    self._flags = flags
    namespaces = [flag for flag in flags if flag.startswith("--namespace=")]
    self._kubectl = ["kubectl", *namespaces[-1:]]
    self.place = " ".join(["k8s", *namespaces[-1:]])

  def command(self, run: Run, after: str | None) -> list[str]:
    """Returns the command line of the script; `after` is not used: a run is started when its turn has come."""
    del after
    return ["bash", SCRIPT, f"--name={job_name(run)}", *self._flags, "--", *run.arguments]

  def submit(self, run: Run, after: str | None) -> str:
    """Makes a run's JobSet, in place of one that is over; returns its name. Raises Later where it is refused."""
    if not Path(SCRIPT).is_file():
      raise UserError(f"{SCRIPT}: not found; run the sweep in the repository's folder")
    name = job_name(run)
    # To apply what is there already would start nothing. In the foreground: the pods are gone, too, when it returns.
    delete = [*self._kubectl, "delete", "jobset", name, "--ignore-not-found", "--cascade=foreground"]
    for command in (delete, self.command(run, after)):
      done = call(command, _MISSING)
      if done.returncode:
        said = complaint(done).removeprefix("error: ")
        raise Later(f"{run.title} cannot be submitted: {said} (mend that or --k8s)")
    return name

  def on(self, run: Run) -> tuple[str, JobState] | None:
    """Returns a run's JobSet that is there and not over; raises Silence where kubectl does not say."""
    name = job_name(run)
    state = self.states([name]).get(name)
    return (name, state) if state is not None and not state.ended else None

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of JobSets by name; raises Silence where kubectl gives none."""
    done = call([*self._kubectl, "get", "jobset", *jobs, "--ignore-not-found", "--output=json"], _MISSING)
    try:
      if done.returncode:
        raise ValueError
      found = json.loads(done.stdout or '{"items": []}')
      return {item["metadata"]["name"]: _state(item) for item in found.get("items", [found])}
    except (ValueError, KeyError, TypeError, AttributeError):
      raise Silence(f"kubectl get jobset: {complaint(done).removeprefix('error: ')}") from None

  def last_words(self, job: str, run: Run, word: str) -> str:
    """Returns the last line of its pods' logs that names an error, or the last line."""
    del run, word
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={job}"
    try:
      done = call([*self._kubectl, "logs", selector, "--tail=100"], _MISSING)
    except UserError:
      return ""
    return "" if done.returncode else last_error(done.stdout.splitlines())

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command line that deletes the JobSets, and returns when their pods have saved and are gone."""
    return [*self._kubectl, "delete", "jobset", "--cascade=foreground", *jobs]


def job_name(run: Run) -> str:
  """Returns a DNS label, at most 40 characters long, that no run with another folder has."""
  unique = f"-s{run.seed}-{digest(run)}"
  words = re.sub(r"[^a-z0-9]+", "-", run.workdir.name.lower()).lstrip("-0123456789")
  return (words[: max(0, _NAME_LENGTH - len(unique))].rstrip("-") or "run")[:_NAME_LENGTH] + unique


def _state(item: dict[str, Any]) -> JobState:
  if "deletionTimestamp" in item["metadata"]:  # and its pods are saving; it is gone before another is made
    return JobState("deleted", ended=True)
  status = item.get("status", {})
  conditions = {one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"}
  if "Completed" in conditions:
    return JobState("Completed", ended=True, status=0)
  if "Failed" in conditions:
    return JobState("Failed", ended=True)
  jobs = status.get("replicatedJobsStatus") or []
  return JobState("running" if any(job.get("ready") for job in jobs) else "queued")
