"""Gathers the results of a sweep's runs: one row for each member, with statistics over its seeds or folds."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fer_jax.apps.formatting import accuracy_estimate, trainings_of
from fer_jax.apps.sweeps.executors import Outcome
from fer_jax.apps.sweeps.plan import Plan, Run, measured_overrides
from fer_jax.config.sweep import Member
from fer_jax.runtime.errors import UserError
from fer_jax.training.intervals import student_interval, wilson_interval
from fer_jax.training.run_files import Metrics, Record, mapping, read_json, read_metrics, replica_folders

QUANTITIES = (
  "test accuracy",
  "validation accuracy",
  "training accuracy",
  "steps to converge",
  "parameters",
  "seconds a step",
  "seconds an epoch",
)
# Quantities that a benchmark can measure, with their keys in the rows of its JSON file.
TIMED = {
  "seconds a step": "seconds_a_step",
  "seconds for 1,500 images": "seconds_1500",
  "multiply-adds": "multiply_adds",
  "milliseconds for an image": "latency_ms",
}
CONVERGED = 0.99  # share of the best validation accuracy at which a run counts as converged
LAST_BATCHES = 10  # number of logged batches over which training accuracy is averaged


@dataclass(frozen=True)
class Training:
  """A planned run and its output.

  Attributes:
    run: Run of the plan.
    logs: Records of metrics.jsonl; one log for each replica if the run has several.
    result: Content of result.json; None until the run has finished.
    error: Error message of a failed run; empty otherwise.
  """

  run: Run
  logs: tuple[Metrics, ...] = ()
  result: Record | None = None
  error: str = ""

  @property
  def status(self) -> str:
    """State of the run: "finished", "failed", "unfinished" or "not yet run"."""
    if self.error:
      return "failed"
    if self.result is not None:
      return "finished"
    return "unfinished" if self.run.begun else "not yet run"


def read_trainings(plan: Plan, outcomes: Mapping[Path, Outcome]) -> list[Training]:
  """Reads the output of a sweep's runs as far as it exists.

  Args:
    plan: Plan of the sweep.
    outcomes: Outcomes of the runs that have just ended, by workdir.
  """
  return [_read(run, outcomes.get(run.workdir, Outcome(0))) for run in plan.runs]


def _read(run: Run, outcome: Outcome) -> Training:
  log, result = run.workdir / "metrics.jsonl", run.workdir / "result.json"
  try:
    # A run with replicas logs their metrics in their folders; its own log has only events.
    folders = replica_folders(run.workdir) or [run.workdir] * log.is_file()
    logs = tuple(read_metrics(folder / "metrics.jsonl") for folder in folders)
    return Training(run, logs, read_json(result) if result.is_file() else None, outcome.error)
  except UserError as error:
    return Training(run, error=str(error))


def gather(plan: Plan, trainings: Sequence[Training]) -> Record:
  """Returns the summary of a sweep, the content of its sweep.json.

  Args:
    plan: Plan of the sweep.
    trainings: Runs of the plan with their output.

  Raises:
    UserError: The file of timings exists and is damaged.
  """
  sweep = plan.sweep
  timings, timed_on = _timings(Path(sweep.timings), {member.config for member in sweep.members})
  rows = [_row(member, [t for t in trainings if t.run.member == member.name], timings) for member in sweep.members]
  for reference in [row for row in rows if row["name"] == sweep.reference]:
    for row in rows:
      row["gap"] = None if row is reference else _gap(row, reference)
  # Members can share a run; it is counted once.
  finished = [t.result for t in {t.run.workdir: t for t in trainings}.values() if t.result is not None]
  states = {row["status"] for row in rows}
  chosen = _chosen(rows, sweep.choose) if sweep.choose else None
  return {
    "sweep": plan.source,
    "title": sweep.title,
    "citation": sweep.citation,
    "claim": sweep.claim,
    "swept": sweep.swept,
    "reference": sweep.reference,
    "choose": sweep.choose,
    "chosen": chosen,
    "chosen_by_fold": _chosen_by_fold(trainings) if chosen else None,
    "overrides": measured_overrides(plan.overrides),
    "status": _together(states),
    "timings": sweep.timings,
    "shown": list(sweep.shown),
    "timed_on": timed_on,
    "timed": sorted({name for of in timings.values() for name in of}),
    "datasets": _distinct(result.get("dataset") for result in finished),
    "devices": _distinct(result.get("device") for result in finished),
    "versions": _versions(finished),
    "commits": _distinct(result.get("commit") for result in finished),
    "seeds": _distinct(seed for member in sweep.members for seed in member.seeds),
    "seconds": sum(result.get("seconds") or 0.0 for result in finished),
    "figures": [asdict(figure) for figure in sweep.figures],
    "rows": rows,
  }


def _row(member: Member, trainings: Sequence[Training], timings: Mapping[str, Mapping[str, float]]) -> Record:
  finished = [t for t in trainings if t.result is not None]
  measured = [_quantities(t) for t in finished]
  means = {name: _mean(m[name] for m in measured) for name in QUANTITIES}
  # Timings of the benchmark replace those of the runs.
  for name in {name for of in timings.values() for name in of}:
    means[name] = timings.get(member.timing, {}).get(name)
  states = {t.status for t in trainings}
  return {
    "name": member.name,
    "value": member.value,
    "series": member.series,
    "config": member.config,
    "overrides": measured_overrides(member.overrides),
    "begins_with": member.begins_with,
    "seeds": list(member.seeds),
    "status": states.pop() if len(states) == 1 else _together(states),
    "error": _errors(trainings),
    "measured": means,
    "reported": dict(member.reported),
    **_spread(finished, measured),
    "classes": _classes(member, finished),
    "steps": _mean(t.result["steps"] for t in finished if t.result),
    "seconds": sum(t.result.get("seconds") or 0.0 for t in finished if t.result),
    "runs": [_run(t) for t in trainings],
  }


def _chosen(rows: Sequence[Record], quantity: str) -> str | None:
  """Returns the name of the member with the highest mean of `quantity`; None until all members have finished.

  Ties go to the smaller standard deviation, then to the first member.
  """
  if any(row["status"] != "finished" or row["measured"][quantity] is None for row in rows):
    return None

  def merit(row: Record) -> tuple[float, float]:
    # Rounded, because equal accuracies summed in a different order differ in the last bits.
    return round(row["measured"][quantity], 9), -round(row["std"].get(quantity, math.inf), 9)

  return str(max(rows, key=merit)["name"])


def _chosen_by_fold(trainings: Sequence[Training]) -> Record | None:
  """Returns the test accuracy when each fold chooses its own member; None if the runs have no folds.

  The validation images of one fold are test images of others, so a choice by the mean over all folds has used every
  test image. Within a fold, validation and test images are disjoint.

  Returns:
    Mean test accuracy of the chosen replicas, its 95 % interval, and how often each member was chosen; None also while
    a member lacks a fold.
  """
  candidates: dict[tuple[int, str], list[tuple[str, Record]]] = {}  # by (seed, fold): (member, entry of the fold)
  for training in trainings:
    result = mapping(training.result)
    for fold in (result.get("runs") or []) if result.get("folds") else []:
      candidates.setdefault((training.run.seed, fold["name"]), []).append((training.run.member, fold))
  everyone = list(dict.fromkeys(training.run.member for training in trainings))
  if not candidates or any([name for name, _ in of] != everyone for of in candidates.values()):
    return None
  picks = [max(of, key=lambda one: one[1]["validation_accuracy"]) for of in candidates.values()]
  accuracies = [fold["accuracy"] for _, fold in picks]
  return {
    "test accuracy": _mean(accuracies),
    "interval_95": list(student_interval(accuracies)) if len(accuracies) > 1 else None,
    "picks": dict(Counter(name for name, _ in picks)),
  }


def _together(states: Set[str]) -> str:
  """Returns the combined state of runs that have these states."""
  return "failed" if "failed" in states else "finished" if states == {"finished"} else "unfinished"


def _errors(trainings: Sequence[Training]) -> str:
  """Returns the distinct errors of the runs, each with the seeds that it occurred with."""
  seeds: dict[str, list[str]] = {}
  for training in trainings:
    if training.error:
      seeds.setdefault(training.error, []).append(str(training.run.seed))
  return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {error}" for error, of in seeds.items())


def _quantities(training: Training) -> dict[str, float | None]:
  """Returns the QUANTITIES of a run; None for those not measured. Logged quantities are means over its replicas."""
  result = mapping(training.result)
  return {
    "test accuracy": result.get("accuracy"),
    "validation accuracy": mapping(result.get("validation")).get("accuracy"),
    "training accuracy": _mean(map(_training_accuracy, training.logs)),
    "steps to converge": _mean(map(_steps_to_converge, training.logs)),
    "parameters": result.get("parameters"),
    "seconds a step": mapping(result.get("measured")).get("seconds a step"),
    "seconds an epoch": mapping(result.get("measured")).get("seconds an epoch"),
  }


def _training_accuracy(log: Metrics) -> float | None:
  """Returns the mean training accuracy of the last LAST_BATCHES logged batches; None if none was logged."""
  return _mean([record["accuracy"] for record in log.train if "accuracy" in record][-LAST_BATCHES:])


def _steps_to_converge(log: Metrics) -> int | None:
  """Returns the first step whose validation accuracy is at least CONVERGED times the best one of the run."""
  validation = log.evaluations.get("validation", [])
  best = max((record["accuracy"] for record in validation), default=math.inf)
  return next((record["step"] for record in validation if record["accuracy"] >= CONVERGED * best), None)


def _spread(finished: Sequence[Training], measured: Sequence[Mapping[str, float | None]]) -> Record:
  """Returns standard deviations and 95 % intervals, over seeds, folds or test images.

  Several runs: over seeds. One run with several replicas: over its folds or seeds. One run with a single replica: the
  Wilson interval over its test images, without a standard deviation.
  """
  spread: Record = {"std": {}, "interval_95": {}, "interval": ""}
  if not finished:
    return spread
  result = mapping(finished[0].result)
  runs = result.get("runs") or []
  if len(finished) > 1:
    over = f"{len(finished)} seeds"
    values = {name: [m[name] for m in measured] for name in ("test accuracy", "validation accuracy")}
  elif len(runs) > 1:
    over = trainings_of(len(runs), result)
    values = {
      "test accuracy": [run["accuracy"] for run in runs],
      "validation accuracy": [run.get("validation_accuracy") for run in runs],
    }
  else:
    estimate = accuracy_estimate(result)
    if estimate is not None and estimate.interval is not None:
      spread |= {"interval_95": {"test accuracy": list(estimate.interval)}, "interval": estimate.meaning}
    return spread
  spread["interval"] = f"Student t, over {over}"
  for name, of in values.items():
    known = [value for value in of if value is not None]
    if len(known) == len(of):  # no statistics over a part of the runs
      spread["std"][name] = stdev(known)
      spread["interval_95"][name] = list(student_interval(known))
  return spread


def _classes(member: Member, finished: Sequence[Training]) -> list[Record]:
  """Returns the recall of each class, pooled over all runs, with its Wilson interval and the paper's figure.

  There is no interval if several seeds are tested on the same images, because these are not independent.
  """
  results = [mapping(training.result) for training in finished]
  right, images = Counter[str](), Counter[str]()
  for result in results:
    for position, name in enumerate(result["class_names"]):
      row = result["confusion_matrix"][position]
      right[name] += row[position]
      images[name] += sum(row)
  # Each image is tested once: a single replica, or the folds of a single run.
  once = len(results) == 1 and (results[0].get("folds") or len(results[0].get("runs") or []) < 2)
  return [
    {
      "class": name,
      "recall": right[name] / images[name] if images[name] else None,
      "interval_95": list(wilson_interval(right[name], images[name])) if once and images[name] else None,
      "images": images[name],
      "printed": member.by_class.get(name),
    }
    for name in images or member.by_class
  ]


def _gap(row: Record, reference: Record) -> Record:
  """Returns the reference's test accuracy minus the member's, over the seeds that both have finished.

  The difference is computed for each seed, because runs with the same seed share the initial parameters and the order
  of the data. Its interval is that of paired observations.
  """
  finished = [[run for run in member["runs"] if run["accuracy"] is not None] for member in (row, reference)]
  own, other = ({run["seed"]: run["accuracy"] for run in runs} for runs in finished)
  differences = [other[seed] - own[seed] for seed in own if seed in other]
  return {
    "mean": _mean(differences),
    "interval_95": list(student_interval(differences, within=(-1.0, 1.0))) if len(differences) > 1 else None,
    "seeds": len(differences),
  }


def _run(training: Training) -> Record:
  result = mapping(training.result)
  runs = result.get("runs") or []
  return {
    "seed": training.run.seed,
    "run": training.run.workdir.name,
    "status": training.status,
    "error": training.error,
    **{key: result.get(key) for key in ("accuracy", "steps", "seconds", "stopped", "device", "commit")},
    "validation_accuracy": mapping(result.get("validation")).get("accuracy"),
    "trainings": trainings_of(len(runs), result) if len(runs) > 1 else None,
  }


def _timings(path: Path, configs: Set[str]) -> tuple[dict[str, dict[str, float]], str]:
  """Returns the timings of a benchmark by row, and its device.

  Args:
    path: JSON file of the benchmark; both results are empty if it does not exist.
    configs: Configs of the sweep's members; both results are empty if the benchmark's config is not one of them.

  Raises:
    UserError: The file lacks a key.
  """
  if not path.is_file():
    return {}, ""
  bench = read_json(path)
  try:
    if bench["config"] not in configs:
      return {}, ""
    timed = {row["name"]: {name: float(row[key]) for name, key in TIMED.items() if key in row} for row in bench["rows"]}
    if not all(timed.values()):  # a row without any of the TIMED keys
      raise KeyError
    return timed, str(bench["device"])
  except (KeyError, TypeError, ValueError):
    raise UserError(
      f"{path}: expected a benchmark's config, device and rows with name and {' or '.join(TIMED.values())}; "
      "run the benchmark again"
    ) from None


def _versions(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
  """Returns the version of each package; several, separated by commas, if the runs differ."""
  known: dict[str, list[str]] = {}
  for result in results:
    for package, version in mapping(result.get("versions")).items():
      known[package] = _distinct([*known.get(package, []), version])
  return {package: ", ".join(versions) for package, versions in known.items()}


def _distinct(values: Iterable[Any]) -> list[Any]:
  return list(dict.fromkeys(value for value in values if value is not None))


def _mean(values: Iterable[float | None]) -> float | None:
  """Returns the mean of the values that are not None, as an int if it is whole and all values are ints."""
  known = [value for value in values if value is not None]
  mean = fmean(known) if known else None
  return int(mean) if mean is not None and mean == int(mean) and all(isinstance(v, int) for v in known) else mean
