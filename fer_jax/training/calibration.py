"""Calibration of predicted probabilities: expected calibration error and temperature scaling.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599). Uses NumPy and SciPy, on the host.
"""

import math

import numpy as np
from scipy.special import log_softmax

BINS = 15  # as in the paper
_LOWEST, _HIGHEST = 0.05, 20.0  # search interval of the temperature


def expected_calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
  """Returns the mean distance between confidence and accuracy (eq. 3 of the paper), in [0, 1].

  Rows are assigned to bins of equal width by the probability of their most probable class. Each bin is weighted by its
  number of rows.

  Args:
    probability: Float array of shape [N, K]; rows sum to 1, and N is at least 1.
    label: Integer array of shape [N], the true classes.
    bins: Number of bins.

  Returns:
    Expected calibration error.
  """
  confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
  number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bin m is ((m - 1) / bins, m / bins]
  # Sum of the confidences and number of correct rows per bin, each [bins].
  sums = [np.bincount(number, weights=values, minlength=bins) for values in (confidence, correct)]
  # sum_m n_m / N |accuracy_m - confidence_m|, where n_m cancels: |sum of correct - sum of confidences| / N.
  return float(np.abs(sums[0] - sums[1]).sum() / len(label))


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the temperature that minimises the cross-entropy of the scaled probabilities with the labels.

  Args:
    probability: Float array of shape [N, K], predictions on a validation split; N is at least 1.
    label: Integer array of shape [N], the true classes.

  Returns:
    Temperature, between 0.05 and 20.
  """
  # Imported here because it would delay the start of every run.
  from scipy.optimize import minimize_scalar

  log_probability = _log(probability)

  def loss(log_temperature: float) -> float:
    scaled = log_softmax(log_probability / math.exp(log_temperature), axis=1)
    return float(-np.mean(scaled[np.arange(len(label)), label]))

  # Search over log T, so that T and 1 / T are treated alike.
  found = minimize_scalar(loss, bounds=(math.log(_LOWEST), math.log(_HIGHEST)), method="bounded")
  return math.exp(found.x)


def scale(probability: np.ndarray, temperature: float) -> np.ndarray:
  """Returns softmax(logits / temperature), computed from the probabilities instead of the logits.

  The most probable class does not change. Temperatures above 1 make the distribution more uniform.

  Args:
    probability: Float array of shape [N, K]; rows sum to 1.
    temperature: Temperature, above 0.

  Returns:
    float32 array of shape [N, K].
  """
  return np.exp(log_softmax(_log(probability) / temperature, axis=1)).astype(np.float32)


def _log(probability: np.ndarray) -> np.ndarray:
  # Log probabilities equal the logits up to a constant per row; the lower bound avoids log(0).
  return np.log(np.maximum(probability.astype(np.float64), np.finfo(np.float32).tiny))
