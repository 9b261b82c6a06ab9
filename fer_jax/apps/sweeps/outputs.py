"""Output of the runs of a sweep, and the quantities that are measured in it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fer_jax.apps.sweeps.executors import Outcome
from fer_jax.apps.sweeps.plan import PlannedRun, SweepPlan
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import Metrics, read_metrics, replica_folders
from fer_jax.training.run_result import RunResult, read_result

CONVERGED = 0.99  # share of the best validation accuracy at which a run counts as converged
LAST_BATCHES = 10  # number of logged batches over which training accuracy is averaged


@dataclass(frozen=True)
class RunOutput:
  """A planned run and its output.

  Attributes:
    run: Run of the plan.
    logs: Records of metrics.jsonl; one log for each replica if the run has several.
    result: Content of result.json; None until the run has finished.
    error: Error message of a failed run; empty otherwise.
  """

  run: PlannedRun
  logs: tuple[Metrics, ...] = ()
  result: RunResult | None = None
  error: str = ""

  @property
  def status(self) -> str:
    """Status of the run: "finished", "failed", "unfinished" or "not yet run"."""
    if self.error or self.result is not None:
      return "failed" if self.error else "finished"
    return "unfinished" if self.run.started else "not yet run"


def read_outputs(plan: SweepPlan, outcomes: Mapping[Path, Outcome]) -> list[RunOutput]:
  """Reads the output of a sweep's runs as far as it exists.

  Args:
    plan: Plan of the sweep.
    outcomes: Outcomes of the runs that have just ended, by workdir.
  """
  return [_read_output(run, outcomes.get(run.workdir, Outcome(0))) for run in plan.runs]


def _read_output(run: PlannedRun, outcome: Outcome) -> RunOutput:
  try:
    # A run with replicas logs their metrics in their folders; its own log has only events.
    folders = replica_folders(run.workdir) or [run.workdir] * (run.workdir / "metrics.jsonl").is_file()
    logs = tuple(read_metrics(folder / "metrics.jsonl") for folder in folders)
    return RunOutput(run, logs, read_result(run.workdir / "result.json") if run.finished else None, outcome.error)
  except UserError as error:
    return RunOutput(run, error=str(error))


def mean(values: Iterable[float | None]) -> float | None:
  """Returns the mean of the values that are not None; None if there are none."""
  known = [value for value in values if value is not None]
  return fmean(known) if known else None


def _training_accuracy(log: Metrics) -> float | None:
  """Returns the mean training accuracy of the last LAST_BATCHES logged batches; None if none was logged."""
  return mean([record["accuracy"] for record in log.train if "accuracy" in record][-LAST_BATCHES:])


def _steps_to_converge(log: Metrics) -> int | None:
  """Returns the first step whose validation accuracy is at least CONVERGED times the best one of the run."""
  validation = log.evaluations.get("validation", [])
  best = max((record["accuracy"] for record in validation), default=math.inf)
  return next((record["step"] for record in validation if record["accuracy"] >= CONVERGED * best), None)


def known_accuracy(accuracy: float | None) -> float | None:
  """Returns a validation accuracy of a run; None if there is no validation split."""
  return None if accuracy is None or accuracy < 0 else accuracy


# Quantity -> its value for a run; None if it was not measured. Logged quantities are means over the replicas.
MEASURES: dict[str, Callable[[RunResult, Sequence[Metrics]], float | None]] = {
  "test accuracy": lambda result, logs: result.accuracy,
  "validation accuracy": lambda result, logs: known_accuracy(result.validation.accuracy),
  "training accuracy": lambda result, logs: mean(map(_training_accuracy, logs)),
  "steps to converge": lambda result, logs: mean(map(_steps_to_converge, logs)),
  "parameters": lambda result, logs: result.parameters,
  "minutes of training": lambda result, logs: result.seconds / 60,  # on the run's clock
  "seconds a step": lambda result, logs: result.measured.get("seconds a step"),
  "seconds an epoch": lambda result, logs: result.measured.get("seconds an epoch"),
}
