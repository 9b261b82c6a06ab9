"""How far probabilities can be trusted: expected calibration error, and temperature scaling.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599). NumPy and SciPy, on the host.
"""

import math

import numpy as np

BINS = 15  # as in the paper
_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


def expected_calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
  """Returns the mean distance between confidence and accuracy (eq. 3 of the paper), in [0, 1].

  Rows are sorted into bins of equal width by the probability of their most probable class; a bin counts as many times
  as it has rows.

  Args:
    probability: Float array of shape [N, K], rows that sum to 1; N is at least 1.
    label: Integer array of shape [N], the true classes.
    bins: Number of bins.
  """
  confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
  number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bin m is ((m - 1) / bins, m / bins]
  sums = [np.bincount(number, weights=values, minlength=bins) for values in (confidence, correct)]
  return float(np.abs(sums[0] - sums[1]).sum() / len(label))


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
  """Returns the temperature whose scaled probabilities have the least cross-entropy with the labels.

  Args:
    probability: Float array of shape [N, K], of a validation split; N is at least 1.
    label: Integer array of shape [N], the true classes.
  """
  from scipy.optimize import minimize_scalar  # here: a run's start should not wait for it

  log_probability = _log(probability)

  def loss(log_temperature: float) -> float:
    scaled = _normalized(log_probability / math.exp(log_temperature))
    return float(-np.mean(scaled[np.arange(len(label)), label]))

  found = minimize_scalar(loss, bounds=(math.log(_LOWEST), math.log(_HIGHEST)), method="bounded")
  return math.exp(found.x)


def scale(probability: np.ndarray, temperature: float) -> np.ndarray:
  """Returns softmax(logits / temperature) of the logits that the probabilities come from, float32 [N, K].

  The most probable class stays the same. Temperatures above 1 make probabilities more equal.
  """
  return np.exp(_normalized(_log(probability) / temperature)).astype(np.float32)


def _log(probability: np.ndarray) -> np.ndarray:
  return np.log(np.maximum(probability.astype(np.float64), np.finfo(np.float32).tiny))


def _normalized(logits: np.ndarray) -> np.ndarray:
  """Returns log_softmax(logits); scaled logarithms of probabilities are 0 at most, so that nothing overflows."""
  return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
