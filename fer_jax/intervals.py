"""95 % intervals: around a share of images, and around the mean of several trainings."""

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, stdev

from scipy.special import stdtrit


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
  """Returns the score interval of a binomial proportion (Wilson, JASA 22, 1927), `trials` > 0."""
  z = NormalDist().inv_cdf(0.5 + confidence / 2)
  share = successes / trials
  centre = share + z * z / (2 * trials)
  half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
  scale = 1 + z * z / trials
  return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def student_interval(
  values: Sequence[float], confidence: float = 0.95, within: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
  """Returns the interval around the mean of two or more values (Student's t), cut to what they can be: shares."""
  n = len(values)
  half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(n)
  return max(within[0], mean(values) - half), min(within[1], mean(values) + half)
