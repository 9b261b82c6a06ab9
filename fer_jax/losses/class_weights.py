"""Class weights for unbalanced datasets, computed from the number of examples per class."""

from collections.abc import Sequence

import numpy as np


def balanced(counts: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns weights inversely proportional to the class counts, n / (K n_k), as scikit-learn's "balanced" does.

  The average weight over the n examples of the dataset is 1.

  Args:
    counts: Number of examples of each class, shape [K].

  Returns:
    float32 [K].

  Raises:
    ValueError: A class has no examples.
  """
  counts = _checked(counts)
  return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def effective_number(counts: Sequence[int] | np.ndarray, beta: float = 0.999) -> np.ndarray:
  """Returns weights inversely proportional to the effective number of examples, (1 - beta^n_k) / (1 - beta).

  Cui et al. 2019, arXiv:1901.05555: each further example of a class adds less information. As in the paper, the
  average weight over the K classes is 1.

  Args:
    counts: Number of examples of each class, shape [K].
    beta: Number in [0, 1). 0 gives all classes equal weights; values near 1 give weights inversely proportional to the
      counts.

  Returns:
    float32 [K].

  Raises:
    ValueError: A class has no examples, or beta is out of range.
  """
  if not 0 <= beta < 1:
    raise ValueError(f"beta={beta}: expected a number from 0 to below 1")
  # The factor 1 - beta is common to all classes and cancels in the normalisation.
  weights = 1 / (1 - beta ** _checked(counts))
  return (weights / weights.mean()).astype(np.float32)


def _checked(counts: Sequence[int] | np.ndarray) -> np.ndarray:
  exact = np.asarray(counts, float)
  if exact.ndim != 1 or not exact.size or not np.all(exact > 0):
    raise ValueError(f"counts={np.asarray(counts).tolist()}: expected the number of examples of each class, above 0")
  return exact
