"""The result of a run of several replicas, and their predictions in one file."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fer_jax.runtime import processes, provenance
from fer_jax.training.evaluate import worst_mistakes
from fer_jax.training.intervals import student_interval
from fer_jax.training.metrics import per_class
from fer_jax.training.results import WORST_MISTAKES
from fer_jax.training.run import Run
from fer_jax.training.run_result import (
  Deduplicated,
  FoldsResult,
  RunResult,
  Strategy,
  Validation,
  ViewResult,
)
from fer_jax.training.workdir import Workdir


def combine(
  run: Run,
  found: Mapping[str, RunResult],
  strategy: Strategy,
  seconds: float,
  time: Mapping[str, float],
  notes: Sequence[str],
) -> RunResult:
  """Combines the results of several replicas: mean, spread, and the sum of the confusion matrices.

  Args:
    run: Run of the replicas.
    found: Results of the replicas, by name.
    strategy: Execution of the replicas.
    seconds: Seconds of the whole run.
    time: Seconds by activity.
    notes: Further remarks for the report; empty ones are skipped.
  """
  results = list(found.values())
  first = results[0]

  def mean(value: Callable[[RunResult], float]) -> float:
    return statistics.fmean(map(value, results))

  accuracies = [result.accuracy for result in results]
  # [R, K, K] -> [K, K]
  confusion = np.sum([result.confusion_matrix for result in results], axis=0)
  step_seconds = [known for result in results if (known := result.measured["seconds a step"]) is not None]
  folds = run.plan.folds
  replica_notes = dict.fromkeys(note for result in results for note in result.notes)
  return RunResult(
    accuracy=statistics.fmean(accuracies),
    std=statistics.stdev(accuracies),
    interval_95=student_interval(accuracies),
    pooled_accuracy=float(np.trace(confusion) / confusion.sum()),
    loss=mean(lambda result: result.loss),
    metrics={name: statistics.fmean(result.metrics[name] for result in results) for name in first.metrics},
    confusion_matrix=tuple(map(tuple, confusion.tolist())),
    class_names=first.class_names,
    input=first.input,
    per_class=per_class(confusion, first.class_names),
    deduplicated=_mean_deduplicated([result.deduplicated for result in results if result.deduplicated is not None]),
    views=_mean_views([result.views for result in results]),
    validation=Validation(mean(lambda result: result.validation.accuracy), None),
    clock=first.clock,
    steps=mean(lambda result: result.steps),
    stopped=", ".join(sorted({result.stopped for result in results})),
    parameters=first.parameters,
    peak_memory_bytes=max(result.peak_memory_bytes for result in results),
    dataset=first.dataset,
    notes=(*replica_notes, *(folds.notes if folds is not None else ()), *filter(None, notes)),
    measured={
      "test accuracy": statistics.fmean(accuracies),
      "validation accuracy": mean(lambda result: result.validation.accuracy),
      "seconds a step": statistics.median(step_seconds) if step_seconds else None,
      "parameters": first.parameters,
    },
    pretrained=first.pretrained,
    seeds=tuple(sorted({seed for result in results for seed in result.seeds})),
    runs=tuple(result.as_replica(name) for name, result in found.items()),
    seconds=seconds,
    time=time,
    strategy=strategy,
    folds=None if folds is None else FoldsResult(folds.by, folds.count, folds.seed),
    config=run.source,
    device=provenance.device(list(run.devices)),
    processes=processes.count(),
    versions=provenance.versions(),
    commit=run.commit,
  )


def pool_predictions(folders: Sequence[Workdir], into: Workdir) -> None:
  """Writes the predictions of several replicas as one predictions.npz, with the replica index of each row.

  Args:
    folders: Run folders of the replicas.
    into: Run folder that receives the file.
  """
  loaded = []
  for folder in folders:
    with np.load(folder.path / "predictions.npz") as file:
      loaded.append(dict(file))
  pooled = {key: np.concatenate([each[key] for each in loaded]) for key in ("index", "label", "probability")}
  worst = worst_mistakes(pooled["probability"], pooled["label"], WORST_MISTAKES)
  # Each replica stores only the images of its worst mistakes; the worst mistakes over all replicas are among them.
  starts = np.cumsum([0, *(len(each["label"]) for each in loaded[:-1])])
  # Key: row in the concatenated arrays, which is the row within the replica plus the replica's first row.
  images = {
    start + position: image
    for start, each in zip(starts.tolist(), loaded, strict=True)
    for position, image in zip(each["worst"].tolist(), each["worst_image"], strict=True)
  }
  shape = loaded[0]["worst_image"].shape[1:]
  into.write_arrays(
    "predictions.npz",
    **pooled,
    replica=np.repeat(np.arange(len(loaded), dtype=np.int32), [len(each["label"]) for each in loaded]),
    worst=worst,
    worst_image=np.array([images[position] for position in worst.tolist()], np.uint8).reshape(-1, *shape),
    sample_image=loaded[0]["sample_image"],
  )


def unequal_steps(found: Mapping[str, RunResult], planned: int) -> str:
  """Returns a note if a time budget led to different numbers of steps, with the reason; "" otherwise.

  Args:
    found: Results of the replicas, by name.
    planned: Number of steps planned for each replica; 0 if the clock alone decided.
  """
  results = found.values()
  if len({result.steps for result in results}) == 1 or all(result.stopped != "time budget" for result in results):
    return ""
  taken = ", ".join(f"{name} {result.steps} ({result.stopped})" for name, result in found.items())
  late = any(result.stopped == "time budget" and result.steps < planned for result in results)
  why = f"; {planned} were planned, but steps became slower than measured at the start, and the clock ended runs" * late
  return f"the runs took different numbers of steps: {taken}{why}"


def _mean_views(found: Sequence[Mapping[str, ViewResult]]) -> dict[str, ViewResult]:
  """Returns the mean of each value over the replicas, and the standard deviation of the test accuracy."""
  return {
    protocol: ViewResult(
      validation=statistics.fmean(each[protocol].validation for each in found),
      test=statistics.fmean(each[protocol].test for each in found),
      loss=statistics.fmean(each[protocol].loss for each in found),
      deduplicated=_mean_or_none([each[protocol].deduplicated for each in found]),
      std=statistics.stdev(each[protocol].test for each in found),
    )
    for protocol in found[0]
  }


def _mean_deduplicated(found: Sequence[Deduplicated]) -> Deduplicated:
  """Returns the mean accuracy, and the total numbers of images with and without a duplicate in training."""
  return Deduplicated(
    images=sum(each.images for each in found),
    seen=sum(each.seen for each in found),
    accuracy=_mean_or_none([each.accuracy for each in found]),
  )


def _mean_or_none(values: Sequence[float | None]) -> float | None:
  """Returns the mean of the values that are not None; None if there are none."""
  known = [value for value in values if value is not None]
  return statistics.fmean(known) if known else None
