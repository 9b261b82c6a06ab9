"""Calibration error against a reference written as loops, and temperature scaling."""

import numpy as np
import pytest

from fer_jax.training.calibration import expected_calibration_error, fit_temperature, scale


def softmax(logits):
  exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
  return exponentials / exponentials.sum(axis=1, keepdims=True)


def sampled(rows=4000, classes=7, seed=0):
  """Returns logits and labels sampled from their probabilities, which are calibrated by construction."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(rows, classes))
  label = (rng.uniform(size=(rows, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
  return logits, label


def reference_error(probability, label, bins):
  """Computes the calibration error literally as in equation 3 of the paper."""
  error = 0.0
  for m in range(bins):
    rows = [
      row for row, p in enumerate(probability) if m / bins < p.max() <= (m + 1) / bins or (m == 0 and p.max() == 0)
    ]
    if rows:
      accuracy = np.mean([probability[row].argmax() == label[row] for row in rows])
      confidence = np.mean([probability[row].max() for row in rows])
      error += len(rows) / len(label) * abs(accuracy - confidence)
  return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_equals_equation_3(bins):
  logits, label = sampled(500)
  probability = softmax(1.7 * logits)
  assert expected_calibration_error(probability, label, bins) == pytest.approx(
    reference_error(probability, label, bins)
  )


def test_error_of_certain_predictions_is_0_or_1():
  certain = np.eye(3)[[0, 1, 2]]
  assert expected_calibration_error(certain, np.array([0, 1, 2])) == 0
  assert expected_calibration_error(certain, np.array([1, 2, 0])) == 1


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_fit_temperature_recovers_the_factor(factor):
  logits, label = sampled()
  assert fit_temperature(softmax(factor * logits), label) == pytest.approx(factor, rel=0.06)


def test_scaling_equals_dividing_logits_and_preserves_predictions():
  logits, label = sampled()
  overconfident = softmax(3 * logits)
  scaled = scale(overconfident, 3.0)
  np.testing.assert_allclose(scaled, softmax(logits), atol=1e-6)
  np.testing.assert_array_equal(scaled.argmax(axis=1), overconfident.argmax(axis=1))
  assert expected_calibration_error(scaled, label) < 0.03 < expected_calibration_error(overconfident, label)


def test_probabilities_of_zero_stay_finite():
  certain = np.eye(3)[[0, 1, 1]]
  assert np.isfinite(scale(certain, 0.05)).all()
  assert np.isfinite(fit_temperature(certain, np.array([0, 1, 2])))
