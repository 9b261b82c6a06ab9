"""Class weights: comparison with their definitions, and rejected arguments."""

import numpy as np
import pytest

from fer_jax.losses.class_weights import balanced, effective_number

K = 7
COUNTS = [3995, 436, 4097, 7215, 4830, 3171, 4965]  # FER2013's training split


def test_balanced_weights_give_all_classes_the_same_total_and_average_one():
  found = balanced(COUNTS)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found * COUNTS, sum(COUNTS) / K, rtol=1e-6)


def test_effective_number_matches_its_sum_over_examples():
  # The n-th example adds beta^(n-1): 1 + beta + beta^2 + ...
  counts, beta = [3, 10, 40], 0.9
  inverse = np.array([1 / sum(beta**n for n in range(count)) for count in counts])
  found = effective_number(counts, beta)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, 3 * inverse / inverse.sum(), rtol=1e-6)


def test_beta_interpolates_between_equal_and_inverse_weights():
  np.testing.assert_array_equal(effective_number(COUNTS, 0.0), np.ones(K))
  inverse = 1 / np.array(COUNTS)
  np.testing.assert_allclose(effective_number(COUNTS, 1 - 1e-9), inverse / inverse.mean(), rtol=1e-4)


@pytest.mark.parametrize("weights", [balanced, effective_number])
@pytest.mark.parametrize("counts", [[3, 0], [3, -1], [], [[1, 2]], [1, float("nan")]])
def test_rejects_counts_that_are_not_positive_numbers(weights, counts):
  with pytest.raises(ValueError, match="counts=.*: expected the number of examples of each class, above 0"):
    weights(counts)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_rejects_beta_out_of_range(beta):
  with pytest.raises(ValueError, match="beta=.*: expected"):
    effective_number([1, 2], beta)
