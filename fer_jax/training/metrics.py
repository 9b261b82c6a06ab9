"""Metrics of predictions on a split. To add one, write a function and a line in `METRICS`.

Every metric is a function (probability float [N, K], label int [N]) -> float, with N of at least 1. It appears in
result.json and in reports.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fer_jax.training.calibration import expected_calibration_error
from fer_jax.training.run_result import ClassMetrics

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the fraction of rows whose most probable class is the label."""
  return float(np.mean(probability.argmax(axis=1) == label))


def balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the mean recall of the classes that occur in the labels."""
  confusion = confusion_matrix(probability, label)
  support = confusion.sum(axis=1)
  present = support > 0
  return float(np.mean(np.diag(confusion)[present] / support[present]))


def macro_f1(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the mean F1 score of the classes that occur in the labels or in the predictions."""
  confusion = confusion_matrix(probability, label)
  # F1 = 2 TP / (2 TP + FP + FN), where the denominator is the row sum plus the column sum of the confusion matrix.
  total = confusion.sum(axis=0) + confusion.sum(axis=1)
  present = total > 0
  return float(np.mean(2 * np.diag(confusion)[present] / total[present]))


def cohen_kappa(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the agreement of predictions and labels beyond chance (Cohen 1960), 1 at most; 0 if chance agrees fully."""
  confusion = confusion_matrix(probability, label) / len(label)
  by_chance = float(confusion.sum(axis=0) @ confusion.sum(axis=1))
  return (float(np.trace(confusion)) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


METRICS: dict[str, Metric] = {
  "accuracy": accuracy,
  "balanced_accuracy": balanced_accuracy,
  "macro_f1": macro_f1,
  "cohen_kappa": cohen_kappa,
  "expected_calibration_error": expected_calibration_error,
}


def confusion_matrix(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Returns the confusion matrix, int64 [K, K]; rows are true classes, columns are predictions."""
  classes = probability.shape[1]
  # One index per pair of classes, counted in a histogram of K^2 cells.
  pairs = np.asarray(label, np.int64) * classes + probability.argmax(axis=1)
  return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: np.ndarray, class_names: Sequence[str]) -> tuple[ClassMetrics, ...]:
  """Returns precision, recall and F1 of each class as defined in `sklearn.metrics`; 0 where undefined.

  Args:
    confusion: Confusion matrix, int [K, K]; rows are true classes, columns are predictions.
    class_names: Names of the K classes.
  """
  found = []
  for k, name in enumerate(class_names):
    hits, predicted, support = int(confusion[k, k]), int(confusion[:, k].sum()), int(confusion[k].sum())
    precision = hits / predicted if predicted else 0.0
    recall = hits / support if support else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    found.append(ClassMetrics(name, precision, recall, f1, support))
  return tuple(found)
