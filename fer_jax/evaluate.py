"""Exact evaluation: every row once, sums and not means of means; the same for any batch size and device count."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fer_jax.data.batch import Batch
from fer_jax.parallel import Devices


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
  eval_step: Callable[..., Any], devices: Devices, variables: Any, resident: Any, batches: Iterable[Batch]
) -> Evaluation:
  """Runs a compiled evaluation step over every batch and adds up.

  Args:
    eval_step: from `Devices.compile_eval`.
    devices: that compiled it.
    variables: (params, stats).
    resident: the split, where it lives on the device.
    batches: from `pipeline.evaluation_batches`.
  """
  pending = [(eval_step(variables, resident, devices.split(batch)), batch.mask) for batch in batches]
  loss, confusion, rows = 0.0, np.zeros((), np.int64), []
  for (sums, of_batch), mask in pending:  # fetched only now: the device never waits for the host
    loss += float(sums.loss)
    confusion = confusion + np.asarray(sums.confusion, np.int64)
    rows.append(np.asarray(of_batch).reshape(len(mask), -1)[mask])
  probability = np.concatenate(rows)
  return Evaluation(loss / len(probability), confusion, probability)


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
