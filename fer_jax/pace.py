"""How fast a run is once its programs are compiled, and how many steps a time budget has room for."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

from fer_jax.data.views import PROTOCOLS
from fer_jax.replicas import Replica
from fer_jax.settings import Settings

_REPORT_SECONDS = 15  # for the files and the report at the end of a run
_FILES_SECONDS = 2  # for what a wave of runs sets up and writes, beside training and evaluation
_SLACK = 1.25  # the time that is kept for equal steps over what they took when they were timed


@dataclasses.dataclass(frozen=True)
class Pace:
  """What the parts of a run take once its programs are compiled, and what follows from it for a time budget.

  Attributes:
    settings: Settings of the run.
    epoch_rows: Training rows of an epoch.
    step: Seconds of a training step of each phase.
    evaluation: Seconds of one evaluation of the validation split.
    final: Number of such evaluations that the evaluations after training equal.
  """

  settings: Settings
  epoch_rows: int
  step: tuple[float, ...]
  evaluation: float
  final: float

  def phases(self, steps: Sequence[int]) -> list[float]:
    """Returns the seconds that each phase takes with so many steps, its evaluations included."""
    every = [self.settings.evaluate_every.steps(n, self.epoch_rows, self.settings.batch_size) for n in steps]
    return [
      n * seconds + math.ceil(n / between) * self.evaluation
      for n, seconds, between in zip(steps, self.step, every, strict=True)
    ]

  def wave(self, steps: Sequence[int]) -> float:
    """Returns the seconds that runs side by side take with so many steps, from setting up to their results."""
    return sum(self.phases(steps)) + self.final * self.evaluation + _FILES_SECONDS

  def fitting(self, planned: Sequence[int], left: float, waves: int) -> tuple[tuple[int, ...], bool]:
    """Returns the steps of each phase that fit in the time left, and whether at least one of each does.

    Args:
      planned: Steps of each phase without a budget; fewer keep their proportions, and are at least one each.
      left: Seconds left of the budget.
      waves: Number of waves that share them.
    """
    of_wave = max(left - _REPORT_SECONDS, left / 2) / waves / _SLACK
    whole = sum(planned)

    def part(total: int) -> tuple[int, ...]:
      return tuple(max(n * total // whole, 1) for n in planned)

    more = bisect.bisect_right(range(whole + 1), of_wave, key=lambda total: self.wave(part(total)))
    return part(max(more - 1, 0)), more > 0

  def deadlines(self, steps: Sequence[int], left: float, waves: int = 0, begin: float = 0.0) -> tuple[float, ...]:
    """Returns when each phase of runs that begin now ends at the latest, so that the budget is kept.

    Args:
      steps: Steps of each phase.
      left: Seconds left of the budget.
      waves: Number of waves that have to take these steps in them; 0 where the clock decides how many it takes.
      begin: Seconds on the runs' clock now.
    """
    # One more evaluation ends the last phase; the files and the report follow.
    reserve = _REPORT_SECONDS + 1.3 * (1 + self.final) * self.evaluation
    # What later waves need is kept for them. All else is this one's, so that the clock ends it only where it must.
    later = max(waves - 1, 0) * self.wave(steps)
    training = max(left - reserve - later, left / 2 / max(waves, 1))
    weights = self.phases(steps) if waves else steps
    return tuple(begin + training * done / sum(weights) for done in itertools.accumulate(weights))


def final_evaluations(settings: Settings, replicas: Sequence[Replica]) -> float:
  """Returns the number of evaluations of the validation split that those of both splits in all views equal."""
  validation, test = (max(len(each.arrays.rows(split)) for each in replicas) for split in ("validation", "test"))
  return PROTOCOLS[settings.views] * (validation + test) / max(validation, 1)
