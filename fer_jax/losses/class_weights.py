"""Weights of the classes of an unbalanced dataset, from the number of examples of each."""

from collections.abc import Sequence

import numpy as np


def balanced(counts: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns weights inverse to the counts, n / (K n_k): scikit-learn's "balanced".

  The weights of a dataset's n rows then average 1.

  Args:
    counts: [K], examples of each class.

  Returns:
    float32 [K].

  Raises:
    ValueError: a class has no examples.
  """
  counts = _checked(counts)
  return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def effective_number(counts: Sequence[int] | np.ndarray, beta: float = 0.999) -> np.ndarray:
  """Returns weights inverse to each class's effective number of examples, (1 - beta^n_k) / (1 - beta).

  Cui et al. 2019, arXiv:1901.05555: new examples of a class tell less and less. As there, the weights of the K
  classes average 1.

  Args:
    counts: [K], examples of each class.
    beta: in [0, 1); 0 weighs all classes equally, near 1 is inverse to the counts.

  Returns:
    float32 [K].

  Raises:
    ValueError: a class has no examples, or beta is out of range.
  """
  if not 0 <= beta < 1:
    raise ValueError(f"beta={beta}: expected a number from 0 to below 1")
  weights = 1 / (1 - beta ** _checked(counts))
  return (weights / weights.mean()).astype(np.float32)


def _checked(counts: Sequence[int] | np.ndarray) -> np.ndarray:
  exact = np.asarray(counts, float)
  if exact.ndim != 1 or not exact.size or not np.all(exact > 0):
    raise ValueError(f"counts={np.asarray(counts).tolist()}: expected the number of examples of each class, above 0")
  return exact
