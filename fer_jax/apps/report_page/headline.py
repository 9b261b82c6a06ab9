"""The top of the page: the result, and notices about its limits."""

import math
from statistics import fmean

from fer_jax.apps.formatting import NOT_MEASURED, Estimate, accuracy_estimate, count, percent
from fer_jax.apps.report_page.replicas import replica_name
from fer_jax.training.run_files import RunFiles
from fer_jax.training.run_result import RunResult


def merit(run: RunFiles) -> tuple[str, Estimate | None]:
  """Returns the name and the value of the test accuracy or, before the run has finished, of what is known instead."""
  if run.result is not None:
    return "Test accuracy", accuracy_estimate(run.result)
  accuracies = [replica.result.accuracy for replica in run.finished if replica.result is not None]
  if accuracies:
    meaning = f"over {len(accuracies)} of {run.planned} replicas; the others have not finished"
    return "Mean test accuracy so far", Estimate(fmean(accuracies), None, meaning)
  best = run.best_validation
  if best is None:
    return "Test accuracy", None
  meaning = f"at step {count(best.step)}; test accuracy {NOT_MEASURED}"
  return "Best validation accuracy so far", Estimate(best.accuracy, None, meaning)


def accuracy_notes(result: RunResult | None) -> list[str]:
  """Returns further lines on accuracy: pooled over all folds, and without test images that also appear in training."""
  found = []
  if result and result.folds and result.pooled_accuracy is not None:
    images = sum(map(sum, result.confusion_matrix))
    found.append(f"pooled over the {count(images)} test images of all folds: {percent(result.pooled_accuracy)}")
  if result and (fresh := result.deduplicated) and fresh.seen:
    mean = "a mean of " * result.several
    found.append(
      f"without the {count(fresh.seen)} test images that also appear in training: "
      f"{mean}{percent(fresh.accuracy)} over {count(fresh.images)}"
      if fresh.images
      else f"all {count(fresh.seen)} test images also appear in training, themselves or as copies"
    )
  return found


def notices(run: RunFiles) -> list[str]:
  """Returns warnings that limit what the page shows, as plain sentences."""
  found = []
  if run.result is None and run.planned > 1:
    waiting = [replica for replica in run.replicas if replica.result is None]
    progress = "".join(f", {replica_name(each.name)} is at step {count(each.last_step)}" for each in waiting)
    found.append(
      f"This run has no result.json: it was interrupted or is still running. {len(run.finished)} of its {run.planned} "
      f"replicas have finished{progress}. The page shows what they have logged so far."
    )
  elif run.result is None:
    found.append(
      "This run has no result.json: it was interrupted or is still running. The page shows what it "
      f"logged up to step {count(run.last_step)}; nothing was measured on the test split."
    )
  elif run.predictions is None:
    found.append("This run has no predictions.npz, so its worst mistakes and augmented samples are not shown.")
  for replica in run.replicas_or_self:
    losses = ((record["step"], record.get("loss", 0.0)) for record in replica.metrics.train)
    step = next((step for step, loss in losses if not _is_finite(loss)), None)
    if step is not None:
      whose = f" of {replica_name(replica.name)}" if run.replicas else ""
      found.append(f"The training loss{whose} is not a finite number at step {count(step)}.")
  for logged in (run, *run.replicas):
    found += _unreadable(logged, "" if logged is run else f"{logged.name}/")
  return found


def _is_finite(value: object) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def _unreadable(run: RunFiles, folder: str) -> list[str]:
  unreadable = run.metrics.unreadable
  if not unreadable:
    return []
  lines = ", ".join(str(number) for number in unreadable[:20])
  more = ", \N{HORIZONTAL ELLIPSIS}" if len(unreadable) > 20 else ""
  few = len(unreadable) == 1
  return [
    f"{len(unreadable)} {'line' if few else 'lines'} of {folder}metrics.jsonl could not be read and "
    f"{'is' if few else 'are'} skipped, as after a crash (line {lines}{more})."
  ]
