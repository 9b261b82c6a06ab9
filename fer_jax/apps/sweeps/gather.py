"""Gathers the results of a sweep's runs: one row for each candidate, with statistics over its seeds or folds."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeVar

from fer_jax.apps.benchmarks.benchmark_result import parse_benchmark
from fer_jax.apps.formatting import accuracy_estimate, runs_text
from fer_jax.apps.sweeps.outputs import MEASURES, RunOutput, known_accuracy, mean
from fer_jax.apps.sweeps.plan import SweepPlan, locate, measured_overrides
from fer_jax.apps.sweeps.sweep_result import (
  CandidateResult,
  ClassRecall,
  FoldChoices,
  Gap,
  Interval,
  SeedResult,
  SweepResult,
)
from fer_jax.config.sweep import POINTS, Candidate
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import read_json
from fer_jax.training.intervals import student_interval, wilson_interval
from fer_jax.training.run_result import ReplicaResult, RunResult

T = TypeVar("T")
Timings = Mapping[str, Mapping[str, float]]  # row of a benchmark -> quantity -> value
# Quantities that a benchmark can measure, with their keys in the rows of its JSON file, and the factor between units.
TIMED = {
  "seconds a step": ("seconds_a_step", 1.0),
  "seconds for 1,500 images": ("seconds_1500", 1.0),
  "multiply-adds": ("multiply_adds", 1.0),
  "milliseconds for an image": ("latency_ms", 1.0),
  "temporary megabytes": ("temporary_bytes", 1e-6),
}


def gather(plan: SweepPlan, outputs: Sequence[RunOutput]) -> SweepResult:
  """Returns the result of a sweep, the content of its sweep.json.

  Args:
    plan: Plan of the sweep.
    outputs: Runs of the plan with their output.

  Raises:
    UserError: The file of timings exists and is damaged.
  """
  sweep = plan.sweep
  timings, timed_on = _read_timings(
    Path(locate(sweep.timings, plan.source)), {candidate.config for candidate in sweep.candidates}
  )
  rows = [_row(each, [o for o in outputs if o.run.candidate == each.name], timings) for each in sweep.candidates]
  for reference in [row for row in rows if row.name == sweep.reference]:
    rows = [row if row is reference else replace(row, gap=_gap(row, reference)) for row in rows]
  # Candidates can share a run; it is counted once.
  finished = [o.result for o in {o.run.workdir: o for o in outputs}.values() if o.result is not None]
  packages = _distinct(package for result in finished for package in result.versions)
  chosen = _choose(rows, sweep.choose) if sweep.choose else None
  return SweepResult(
    **vars(sweep) | {"candidates": tuple(rows)},
    sweep=plan.source,
    chosen=chosen,
    chosen_by_fold=_choose_by_fold(outputs) if chosen else None,
    overrides=measured_overrides(plan.overrides),
    status=_combined({row.status for row in rows}),
    timed_on=timed_on,
    timed=tuple(sorted({name for of in timings.values() for name in of})),
    datasets=_distinct(result.dataset for result in finished),
    devices=_distinct(result.device for result in finished),
    versions={
      name: ", ".join(_distinct(r.versions[name] for r in finished if name in r.versions)) for name in packages
    },
    commits=_distinct(result.commit for result in finished),
    seeds=_distinct(seed for candidate in sweep.candidates for seed in candidate.seeds),
    seconds=sum(result.seconds for result in finished),
  )


def _row(candidate: Candidate, outputs: Sequence[RunOutput], timings: Timings) -> CandidateResult:
  finished = [(output.result, output.logs) for output in outputs if output.result is not None]
  results = [result for result, _ in finished]
  values = {name: [measure(result, logs) for result, logs in finished] for name, measure in MEASURES.items()}
  # Timings of the benchmark replace those of the runs.
  timed = {name: timings.get(candidate.timing, {}).get(name) for of in timings.values() for name in of}
  std, intervals, meaning = _spread(results, values)
  statuses = {output.status for output in outputs}
  return CandidateResult(
    **vars(candidate) | {"overrides": measured_overrides(candidate.overrides)},
    status=statuses.pop() if len(statuses) == 1 else _combined(statuses),
    error=_errors(outputs),
    measured={name: mean(of) for name, of in values.items()} | timed,
    std=std,
    interval_95=intervals,
    interval=meaning,
    classes=_classes(candidate, results),
    steps=mean([result.steps for result in results]),
    seconds=sum(result.seconds for result in results),
    runs=tuple(map(_seed_result, outputs)),
  )


def _seed_result(output: RunOutput) -> SeedResult:
  run, result = output.run, output.result
  unfinished = SeedResult(seed=run.seed, run=run.workdir.name, status=output.status, error=output.error)
  if result is None:
    return unfinished
  return replace(
    unfinished,
    accuracy=result.accuracy,
    validation_accuracy=known_accuracy(result.validation.accuracy),
    steps=result.steps,
    seconds=result.seconds,
    stopped=result.stopped,
    device=result.device,
    commit=result.commit,
    replicas=runs_text(len(result.runs), result) if result.several else None,
  )


def _choose(rows: Sequence[CandidateResult], quantity: str) -> str | None:
  """Returns the name of the candidate with the highest mean of `quantity`; None until all candidates have finished.

  Ties go to the smaller standard deviation, then to the first candidate.
  """
  merits = {}
  for row in rows:
    value = row.measured[quantity]
    if row.status != "finished" or value is None:
      return None
    # Rounded, because equal accuracies summed in a different order differ in the last bits.
    merits[row.name] = round(value, 9), -round(row.std.get(quantity, math.inf), 9)
  return max(merits, key=merits.__getitem__)


def _choose_by_fold(outputs: Sequence[RunOutput]) -> FoldChoices | None:
  """Returns the test accuracy when each fold chooses its own candidate; None if the runs have no folds.

  The validation images of one fold are test images of others, so a choice by the mean over all folds has used every
  test image. Within a fold, validation and test images are disjoint. None also while a candidate lacks a fold.
  """
  by_fold: dict[tuple[int, str | None], dict[str, ReplicaResult]] = {}  # (seed, fold) -> candidate -> its result
  for output in outputs:
    for fold in output.result.runs if output.result is not None and output.result.folds is not None else ():
      by_fold.setdefault((output.run.seed, fold.name), {})[output.run.candidate] = fold
  candidates = {output.run.candidate for output in outputs}
  if not by_fold or any(of.keys() != candidates for of in by_fold.values()):
    return None
  picks = [max(of, key=lambda name: of[name].validation_accuracy or 0.0) for of in by_fold.values()]
  accuracies = [of[name].accuracy for of, name in zip(by_fold.values(), picks, strict=True)]
  return FoldChoices(fmean(accuracies), _interval(accuracies), Counter(picks))


def _combined(statuses: Set[str]) -> str:
  """Returns the combined status of runs that have these."""
  return "failed" if "failed" in statuses else "finished" if statuses == {"finished"} else "unfinished"


def _errors(outputs: Sequence[RunOutput]) -> str:
  """Returns the distinct errors of the runs, each with the seeds that it occurred with."""
  seeds: dict[str, list[str]] = {}
  for output in outputs:
    if output.error:
      seeds.setdefault(output.error, []).append(str(output.run.seed))
  return "; ".join(f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {error}" for error, of in seeds.items())


def _spread(
  results: Sequence[RunResult], values: Mapping[str, Sequence[float | None]]
) -> tuple[dict[str, float], dict[str, Interval], str]:
  """Returns standard deviations and 95 % intervals by quantity, over seeds, folds or test images, and what they are.

  Several runs: over seeds. One run with several replicas: over its folds or seeds. One run with a single replica: the
  Wilson interval over its test images, without a standard deviation.

  Args:
    results: Results of the finished runs.
    values: Values of each run, by quantity.
  """
  if not results:
    return {}, {}, ""
  result = results[0]
  if len(results) > 1:
    over = f"{len(results)} seeds"
  elif result.several:
    over = runs_text(len(result.runs), result)
    values = {
      "test accuracy": [run.accuracy for run in result.runs],
      "validation accuracy": [known_accuracy(run.validation_accuracy) for run in result.runs],
    }
  else:
    estimate = accuracy_estimate(result)
    return {}, {} if estimate.interval is None else {"test accuracy": estimate.interval}, estimate.meaning
  # No statistics over a part of the runs.
  known = {name: [v for v in values[name] if v is not None] for name in POINTS if None not in values[name]}
  deviations = {name: stdev(of) for name, of in known.items()}
  return deviations, {name: student_interval(of) for name, of in known.items()}, f"Student t, over {over}"


def _classes(candidate: Candidate, results: Sequence[RunResult]) -> tuple[ClassRecall, ...]:
  """Returns the recall of each class, pooled over all runs, with its Wilson interval and the paper's figure."""
  right, images = Counter[str](), Counter[str]()
  for result in results:
    for position, (name, row) in enumerate(zip(result.class_names, result.confusion_matrix, strict=True)):
      right[name] += row[position]
      images[name] += sum(row)
  # Each image is tested once: a single replica, or the folds of a single run.
  once = len(results) == 1 and (results[0].folds is not None or not results[0].several)
  return tuple(
    ClassRecall(
      name=name,
      recall=right[name] / images[name] if images[name] else None,
      interval_95=wilson_interval(right[name], images[name]) if once and images[name] else None,
      images=images[name],
      reported=candidate.by_class.get(name),
    )
    for name in images or candidate.by_class
  )


def _gap(row: CandidateResult, reference: CandidateResult) -> Gap:
  """Returns the reference's test accuracy minus the candidate's, over the seeds that both have finished.

  The difference is computed for each seed, because runs with the same seed share the initial parameters and the order
  of the data. Its interval is that of paired observations.
  """
  own, other = ({run.seed: run.accuracy for run in each.runs if run.accuracy is not None} for each in (row, reference))
  differences = [other[seed] - accuracy for seed, accuracy in own.items() if seed in other]
  return Gap(mean(differences), _interval(differences, (-1.0, 1.0)), len(differences))


def _read_timings(path: Path, configs: Set[str]) -> tuple[Timings, str]:
  """Returns the timings of a benchmark by row, and its device.

  Args:
    path: JSON file of the benchmark; both results are empty if it does not exist.
    configs: Configs of the sweep's candidates; both results are empty if the benchmark's config is not one of them.

  Raises:
    UserError: The file lacks a key.
  """
  if not path.is_file():
    return {}, ""
  benchmark = parse_benchmark(read_json(path), str(path))
  if benchmark.config is not None and benchmark.config not in configs:
    return {}, ""
  timings = {
    str(row.get("name")): {name: factor * row[key] for name, (key, factor) in TIMED.items() if key in row}
    for row in benchmark.rows
  }
  if benchmark.config is None or not all(timings.values()):
    keys = " or ".join(key for key, _ in TIMED.values())
    raise UserError(f"{path}: expected a config, and rows with name and {keys}; run the benchmark again")
  return timings, benchmark.device


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
  return tuple(dict.fromkeys(values))


def _interval(values: Sequence[float], within: tuple[float, float] = (0.0, 1.0)) -> Interval | None:
  """Returns the Student t interval of the mean; None for less than two values."""
  return student_interval(values, within=within) if len(values) > 1 else None
