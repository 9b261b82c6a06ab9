"""Exact evaluation: every row counts once, and the result does not depend on batch size or number of devices."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.data.batch import Batch
from fer_jax.runtime.parallel import Placement
from fer_jax.training.metrics import confusion_matrix
from fer_jax.training.run_result import Deduplicated


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Results of a model on a split of N rows and K classes.

  Attributes:
    loss: Mean cross-entropy in nats.
    confusion: Confusion matrix, int64 [K, K]; rows are true classes, columns are predictions.
    probability: Predicted probabilities in the order of the split, float32 [N, K].
  """

  loss: float
  confusion: np.ndarray
  probability: np.ndarray

  @property
  def accuracy(self) -> float:
    """Fraction of correctly classified rows."""
    return float(np.trace(self.confusion) / self.confusion.sum())


def evaluate(
  eval_step: Callable[..., Any],
  placement: Placement,
  variables: Any,
  resident: Any,
  batches: Sequence[Iterable[Batch]],
  rows: Sequence[int],
) -> list[Evaluation]:
  """Evaluates every replica on its own batches and returns their results.

  Args:
    eval_step: Compiled evaluation step, from `Placement.compile_eval`.
    placement: Placement that compiled the step.
    variables: The (params, stats) of all replicas, on the devices.
    resident: Dataset in device memory; empty if batches contain the rows.
    batches: Batches of each replica from `pipeline.evaluation_batches`, the same number for all replicas.
    rows: Number of rows of each replica's split; the batches contain them in order, followed by padding.
  """
  pending = [
    eval_step(variables, resident, placement.shard_batches(together)) for together in zip(*batches, strict=True)
  ]
  # Copied to the host only after all batches are dispatched, so that the device is never idle between them.
  fetched = jax.device_get(pending)
  return [
    _add_up([placement.select_replica(results, number) for results in fetched], n) for number, n in enumerate(rows)
  ]


def _add_up(results: Sequence[Any], rows: int) -> Evaluation:
  loss = sum(float(sums.loss) for sums, _ in results)
  confusion = np.stack([sums.confusion for sums, _ in results]).sum(axis=0, dtype=np.int64)
  # [B, K] per batch -> [N, K] without padding
  probability = np.concatenate([of_batch for _, of_batch in results])[:rows]
  return Evaluation(loss / len(probability), confusion, probability)


def averaged(views: Sequence[Evaluation], target: np.ndarray) -> Evaluation:
  """Evaluates the mean of several predictions of the same rows: test-time augmentation views or an ensemble.

  Args:
    views: Evaluations of the same split.
    target: Distributions over the classes, float [N, K].
  """
  probability = np.stack([each.probability for each in views]).mean(axis=0, dtype=np.float64)
  confusion = confusion_matrix(probability, target.argmax(axis=1))
  # A probability of 0 counts as the smallest normal float32, so that the loss is finite.
  loss = -np.mean(np.sum(target * np.log(np.maximum(probability, np.finfo(np.float32).tiny)), axis=1))
  return Evaluation(float(loss), confusion, np.asarray(probability, np.float32))


def deduplicated(evaluation: Evaluation, label: np.ndarray, seen: np.ndarray) -> Deduplicated:
  """Returns the accuracy without the test images that also appear in training, and the sizes of both groups.

  Args:
    evaluation: Evaluation of N rows.
    label: True classes, int [N].
    seen: Mask of the rows whose image also appears in training, bool [N].
  """
  right = evaluation.probability.argmax(axis=1) == label
  accuracy = None if seen.all() else float(right[~seen].mean())
  return Deduplicated(images=int((~seen).sum()), seen=int(seen.sum()), accuracy=accuracy)


def worst_mistakes(probability: np.ndarray, label: np.ndarray, most: int) -> np.ndarray:
  """Returns the positions of at most `most` wrong predictions, the most confident first, int64 [M]."""
  predicted = probability.argmax(axis=1)
  wrong = np.flatnonzero(predicted != label)
  return wrong[np.argsort(-probability[wrong, predicted[wrong]], kind="stable")][:most]
