"""Exact evaluation: every row once, sums and not means of means; the same for any batch size and device count."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.data.batch import Batch
from fer_jax.parallel import Placement


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a model did on a split of N rows and K classes.

  Attributes:
    loss: mean cross-entropy in nats.
    confusion: int64 [K, K], rows true, columns predicted.
    probability: float32 [N, K], in the split's order.
  """

  loss: float
  confusion: np.ndarray
  probability: np.ndarray

  @property
  def accuracy(self) -> float:
    """The share of rows on the confusion matrix's diagonal."""
    return float(np.trace(self.confusion) / self.confusion.sum())


def evaluate(
  eval_step: Callable[..., Any],
  placement: Placement,
  variables: Any,
  resident: Any,
  batches: Sequence[Iterable[Batch]],
  rows: Sequence[int],
) -> list[Evaluation]:
  """Runs a compiled evaluation step over every batch and adds up, for each of the trainings that are placed.

  Args:
    eval_step: from `Placement.compile_eval`.
    placement: that compiled it.
    variables: (params, stats), placed.
    resident: the dataset, where it lives on the device.
    batches: of each training, equally many, from `pipeline.evaluation_batches`.
    rows: of each training's split, which the batches hold in order before what they are filled up with.
  """
  pending = [eval_step(variables, resident, placement.deal(together)) for together in zip(*batches, strict=True)]
  fetched = jax.device_get(pending)  # only now: the device never waits for the host
  return [_add_up([placement.take(results, number) for results in fetched], n) for number, n in enumerate(rows)]


def _add_up(results: Sequence[Any], rows: int) -> Evaluation:
  loss = sum(float(sums.loss) for sums, _ in results)
  confusion = np.stack([sums.confusion for sums, _ in results]).sum(axis=0, dtype=np.int64)
  probability = np.concatenate([of_batch for _, of_batch in results])[:rows]
  return Evaluation(loss / len(probability), confusion, probability)


def averaged(views: Sequence[Evaluation], target: np.ndarray) -> Evaluation:
  """Evaluates the mean of several probabilities of the same rows: views of an image, or several networks.

  Args:
    views: of the same split.
    target: float [N, K], the rows' distributions over the classes.
  """
  probability = np.stack([each.probability for each in views]).mean(axis=0, dtype=np.float64)
  label, predicted = target.argmax(axis=1), probability.argmax(axis=1)
  confusion = np.zeros((target.shape[1],) * 2, np.int64)
  np.add.at(confusion, (label, predicted), 1)
  loss = -np.mean(np.sum(target * np.log(np.maximum(probability, np.finfo(np.float32).tiny)), axis=1))
  return Evaluation(float(loss), confusion, np.asarray(probability, np.float32))


def deduplicated(evaluation: Evaluation, label: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
  """Returns the accuracy over the images that do not stand in training, and how many do not and do.

  Args:
    evaluation: of N rows.
    label: int [N].
    seen: bool [N], whether a row's image stands in training, too.
  """
  right = evaluation.probability.argmax(axis=1) == label
  accuracy = float(right[~seen].mean()) if not seen.all() else None
  return {"accuracy": accuracy, "images": int((~seen).sum()), "seen": int(seen.sum())}


def per_class(confusion: np.ndarray, class_names: Iterable[str]) -> list[dict[str, Any]]:
  """Returns precision, recall and F1 of each class as `sklearn.metrics` defines them; 0 where undefined."""
  rows = []
  for k, name in enumerate(class_names):
    hits, predicted, support = confusion[k, k], confusion[:, k].sum(), confusion[k].sum()
    precision = float(hits / predicted) if predicted else 0.0
    recall = float(hits / support) if support else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "support": int(support)})
  return rows


def worst_mistakes(probability: np.ndarray, label: np.ndarray, most: int) -> np.ndarray:
  """Returns the positions, int64 [<= most], of wrong predictions, the most confident first."""
  predicted = probability.argmax(axis=1)
  wrong = np.flatnonzero(predicted != label)
  return wrong[np.argsort(-probability[wrong, predicted[wrong]], kind="stable")][:most]
