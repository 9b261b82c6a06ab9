"""Confidence intervals (95 % by default) of a proportion of images and of the mean of several training runs."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from scipy.special import stdtrit


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
  """Computes the Wilson score interval of a binomial proportion (Wilson, JASA 22, 1927).

  Args:
    successes: Number of successes, 0 to `trials`.
    trials: Number of trials, above 0.
    confidence: Confidence level, between 0 and 1.

  Returns:
    Lower and upper bound, in [0, 1].
  """
  # Imported here because it would delay the start of every run.
  from scipy.stats import binomtest

  interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
  return float(interval.low), float(interval.high)


def student_interval(
  values: Sequence[float], confidence: float = 0.95, within: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
  """Computes the Student t interval of the mean, clipped to the range of possible values.

  Args:
    values: Two or more values, one per run.
    confidence: Confidence level, between 0 and 1.
    within: Lowest and highest possible value; the default is the range of a proportion.

  Returns:
    Lower and upper bound.
  """
  n = len(values)
  # Quantile of Student's t with n - 1 degrees of freedom, times the standard error of the mean.
  half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(n)
  return max(within[0], mean(values) - half), min(within[1], mean(values) + half)
