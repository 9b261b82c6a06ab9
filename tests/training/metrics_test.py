"""Metrics compared with scikit-learn on random predictions, with classes that are absent or never predicted."""

import numpy as np
import pytest
import sklearn.metrics

from fer_jax.training.metrics import METRICS, confusion_matrix, per_class
from fer_jax.training.run_result import ClassMetrics

CLASSES = 5
REFERENCES = {
  "accuracy": sklearn.metrics.accuracy_score,
  "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
  "macro_f1": lambda label, predicted: sklearn.metrics.f1_score(label, predicted, average="macro", zero_division=0),
  "cohen_kappa": sklearn.metrics.cohen_kappa_score,
}


def sampled(seed):
  """Returns probabilities [N, K] and labels [N]; every second seed lacks class 0, every third predicts no class 4."""
  rng = np.random.default_rng(seed)
  label = rng.integers(seed % 2, CLASSES, 60)
  probability = rng.dirichlet(np.ones(CLASSES), 60) + 0.3 * np.eye(CLASSES)[label]
  if seed % 3 == 0:
    probability[:, 4] = 0
  return probability / probability.sum(axis=1, keepdims=True), label


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_scikit_learn(name, seed):
  probability, label = sampled(seed)
  assert METRICS[name](probability, label) == pytest.approx(REFERENCES[name](label, probability.argmax(axis=1)))


def test_every_metric_of_perfect_predictions():
  label = np.arange(10) % CLASSES
  perfect = {name: metric(np.eye(CLASSES)[label], label) for name, metric in METRICS.items()}
  assert perfect == {**dict.fromkeys(METRICS, 1.0), "expected_calibration_error": 0.0}


def test_kappa_is_zero_with_a_single_class():
  assert METRICS["cohen_kappa"](np.ones((4, 1)), np.zeros(4, int)) == 0.0


def test_confusion_matrix_equals_scikit_learn():
  probability, label = sampled(1)
  expected = sklearn.metrics.confusion_matrix(label, probability.argmax(axis=1), labels=range(CLASSES))
  np.testing.assert_array_equal(confusion_matrix(probability, label), expected)


class TestPerClass:
  @pytest.mark.parametrize("seed", range(8))
  def test_equals_scikit_learn(self, seed):
    rng = np.random.default_rng(seed)
    confusion = rng.integers(0, 6, (CLASSES, CLASSES)) * rng.integers(0, 2, (CLASSES, CLASSES))
    if seed % 2:
      confusion[rng.integers(CLASSES)] = 0  # a class without rows
    if seed % 3:
      confusion[:, rng.integers(CLASSES)] = 0  # a class never predicted
    true, predicted = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape))
    reference = sklearn.metrics.precision_recall_fscore_support(true, predicted, labels=range(CLASSES), zero_division=0)
    found = per_class(confusion, "abcde")
    assert [row.name for row in found] == list("abcde")
    for values, name in zip(reference, ("precision", "recall", "f1", "support"), strict=True):
      np.testing.assert_allclose([getattr(row, name) for row in found], values, rtol=1e-12)

  def test_undefined_values_are_zero(self):
    assert per_class(np.zeros((1, 1), int), "a") == (ClassMetrics("a", 0.0, 0.0, 0.0, 0),)
