from statistics import NormalDist

import numpy as np
import pytest

from fer_jax.training.intervals import student_interval, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (12, 12), (1, 3), (2541, 3589)])
def test_wilson_interval_ends_where_the_score_test_is_at_its_limit(successes: int, trials: int) -> None:
  share, (low, high) = successes / trials, wilson_interval(successes, trials)
  assert 0 <= low <= share <= high <= 1
  assert low < high
  for bound in (low, high):
    # 1.96 standard errors of a proportion that is `bound`
    error = NormalDist().inv_cdf(0.975) * (bound * (1 - bound) / trials) ** 0.5
    assert abs(share - bound) == pytest.approx(error, abs=1e-12)


# From tables of Student's t distribution: 95 % lies within 12.706, 4.303 and 2.262 for 1, 2 and 9 degrees of freedom.
@pytest.mark.parametrize(("values", "t"), [((0.5, 0.52), 12.706), ((0.4, 0.5, 0.6), 4.303), ((0.5, 0.7) * 5, 2.262)])
def test_student_interval_equals_the_tables(values: tuple[float, ...], t: float) -> None:
  half = t * np.std(values, ddof=1) / len(values) ** 0.5
  np.testing.assert_allclose(student_interval(values), (np.mean(values) - half, np.mean(values) + half), atol=1e-4)


def test_student_interval_is_clipped_to_0_and_1() -> None:
  assert student_interval((0.0, 1.0)) == (0.0, 1.0)
