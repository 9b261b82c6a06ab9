"""Intervals against scipy, and how quantities are written."""

import numpy as np
import pytest

from fer_jax.apps.report_page.quantities import (
  accuracy_estimate,
  duration,
  memory,
  short_commit,
  student_interval,
  wilson_interval,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (12, 12), (1, 3), (2541, 3589)])
def test_wilson_interval_equals_scipy(successes: int, trials: int) -> None:
  stats = pytest.importorskip("scipy.stats")
  expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
  np.testing.assert_allclose(wilson_interval(successes, trials), expected, atol=1e-12)


# From tables of Student's t: 95 % of it lies within 12.706, 4.303 and 2.262 for 1, 2 and 9 degrees of freedom.
@pytest.mark.parametrize(("values", "t"), [((0.5, 0.52), 12.706), ((0.4, 0.5, 0.6), 4.303), ((0.5, 0.7) * 5, 2.262)])
def test_student_interval_is_the_table_s(values: tuple[float, ...], t: float) -> None:
  half = t * np.std(values, ddof=1) / len(values) ** 0.5
  np.testing.assert_allclose(student_interval(values), (np.mean(values) - half, np.mean(values) + half), atol=1e-4)


def test_student_interval_of_shares_ends_at_0_and_1() -> None:
  assert student_interval((0.0, 1.0)) == (0.0, 1.0)


def test_accuracy_without_a_count_of_images_has_no_interval() -> None:
  estimate = accuracy_estimate({"accuracy": 0.5})
  assert estimate is not None
  assert estimate.interval is None


@pytest.mark.parametrize(
  ("seconds", "said"),
  [
    (0.0493, "0.0493 s"),
    (42.06, "42.1 s"),
    (59.97, "1 min 00 s"),
    (363.4, "6 min 03 s"),
    (3599.6, "1 h 00 min"),
  ],
)
def test_durations_carry_over(seconds: float, said: str) -> None:
  assert duration(seconds) == said


@pytest.mark.parametrize(
  ("size", "said"), [(512, "512 B"), (1023 * 1024, "1023 KiB"), (3_251_000_000, "3.03 GiB"), (None, "not yet measured")]
)
def test_memory_is_in_binary_units(size: int | None, said: str) -> None:
  assert memory(size) == said


@pytest.mark.parametrize(
  ("commit", "said"),
  [
    ("0123456789abcdef", "012345678"),
    ("0123456789abcdef-dirty", "012345678-dirty"),
    ("v1.0", "v1.0"),
    (None, "unknown"),
  ],
)
def test_a_commit_is_shortened_but_keeps_its_mark(commit: str | None, said: str) -> None:
  assert short_commit(commit) == said
