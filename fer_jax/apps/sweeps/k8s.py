"""Runs as Kubernetes JobSets, one for each run, created by launch/k8s/train.sh."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.apps.sweeps.cluster import Cluster, JobState, call, digest, error_of, query
from fer_jax.apps.sweeps.executors import NoResponse, NotReady, last_error
from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime.errors import UserError

SCRIPT = "launch/k8s/train.sh"
STORAGE = Path("/storage")  # mount path of the volume in the pods
_MISSING = "install it and configure it for the cluster"
_RESERVED = ("--name", "--dry-run", "--")  # flags that the sweep sets
_NAME_LENGTH = 40  # a pod's host name has at most 63 characters, and JobSet appends the job's name and two numbers


class Kubernetes(Cluster):
  """Submits runs as JobSets.

  Args:
    flags: Flags of launch/k8s/train.sh.
    workdir: Folder of all sweeps, on the volume that all pods share and that is mounted here at the same path.

  Raises:
    UserError: A flag is one that the sweep sets itself, or the pods would not share a volume.
  """

  def __init__(self, flags: Sequence[str], workdir: Path):
    if STORAGE not in workdir.parents:
      raise UserError(
        f"--workdir={workdir}: with Kubernetes expected a folder below {STORAGE}, the volume of the pods, which must "
        f"be mounted here at the same path; give --workdir={STORAGE / 'sweeps'}"
      )
    if not any(flag.startswith("--claim=") for flag in flags):
      raise UserError(
        "--k8s: expected --claim=CLAIM among its flags, because without it each run would get its own volume; add it"
      )
    for flag in flags:
      if flag.partition("=")[0] in _RESERVED:
        raise UserError(f"--k8s: {flag}: a sweep sets the names and the arguments of its jobs; leave it out")
    self._flags = flags
    namespaces = [flag for flag in flags if flag.startswith("--namespace=")]
    self._kubectl = ["kubectl", *namespaces[-1:]]
    self.name = " ".join(["k8s", *namespaces[-1:]])

  def command(self, run: PlannedRun, after: str | None) -> list[str]:
    """Returns the command line of the script; `after` is unused: the launcher starts a run after its dependency."""
    return ["bash", SCRIPT, f"--name={job_name(run)}", *self._flags, "--", *run.arguments]

  def submit(self, run: PlannedRun, after: str | None) -> str:
    """Creates the JobSet of a run, replacing one that has ended, and returns its name."""
    if not Path(SCRIPT).is_file():
      raise UserError(f"{SCRIPT}: not found; run the sweep from the repository's root")
    name = job_name(run)
    # Applying a JobSet that exists starts nothing, so it is deleted first. With a foreground cascade the command
    # returns when its pods are deleted, too.
    delete = [*self._kubectl, "delete", "jobset", name, "--ignore-not-found", "--cascade=foreground"]
    for command in (delete, self.command(run, after)):
      done = call(command, _MISSING)
      if done.returncode:
        raise NotReady(f"{run.title} cannot be submitted: {error_of(done)} (fix the cause, or the flags in --k8s)")
    return name

  def jobs_of(self, run: PlannedRun) -> dict[str, JobState]:
    """Returns the state of the run's JobSet."""
    return self.states([job_name(run)])

  def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
    """Returns the states of JobSets by name, without those that do not exist."""
    output = query([*self._kubectl, "get", "jobset", *jobs, "--ignore-not-found", "--output=json"], _MISSING)
    try:
      # kubectl prints nothing for no object, the object itself for one, and a list with "items" for several.
      found = json.loads(output or '{"items": []}')
      return {item["metadata"]["name"]: _state(item) for item in found.get("items", [found])}
    except (ValueError, KeyError, TypeError, AttributeError):
      raise NoResponse(f"kubectl get jobset: expected JobSets as JSON, found {output[:60]!r}") from None

  def last_message(self, job: str, run: PlannedRun, state: str) -> str:
    """Returns the last error message in the logs of the JobSet's pods, or their last line; empty without logs."""
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={job}"
    try:
      done = call([*self._kubectl, "logs", selector, "--tail=100"], _MISSING)
    except UserError:
      return ""
    return "" if done.returncode else last_error(done.stdout.splitlines())

  def cancel(self, jobs: Sequence[str]) -> list[str]:
    """Returns the command line that deletes the JobSets; it blocks until their pods have saved and are deleted."""
    return [*self._kubectl, "delete", "jobset", "--cascade=foreground", *jobs]


def job_name(run: PlannedRun) -> str:
  """Returns a DNS label of at most 40 characters that is unique to the run's folder."""
  unique = f"-s{run.seed}-{digest(run)}"
  words = re.sub(r"[^a-z0-9]+", "-", run.workdir.name.lower()).lstrip("-0123456789")
  return (words[: max(0, _NAME_LENGTH - len(unique))].rstrip("-") or "run")[:_NAME_LENGTH] + unique


def _state(item: dict[str, Any]) -> JobState:
  # Its pods are saving their state. The JobSet counts as ended: submit() waits for its deletion.
  if "deletionTimestamp" in item["metadata"]:
    return JobState("deleted", ended=True)
  status = item.get("status", {})
  conditions = {one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"}
  if "Completed" in conditions:
    return JobState("Completed", ended=True, status=0)
  if "Failed" in conditions:
    return JobState("Failed", ended=True)
  jobs = status.get("replicatedJobsStatus") or []
  return JobState("running" if any(job.get("ready") for job in jobs) else "queued")
