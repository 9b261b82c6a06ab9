"""Time budget of a run: the measured times of its parts, and the number of steps that fits."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

from fer_jax.config.settings import Settings
from fer_jax.data.views import PROTOCOLS
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Replica, ReplicaPlan
from fer_jax.training.run_log import Stopwatch
from fer_jax.training.strategy import StrategyProbe

_REPORT_SECONDS = 15  # reserve for the files and the report at the end of a run
_FILES_SECONDS = 2  # per wave, for setup and for writing files
_SLACK = 1.25  # safety factor on the measured times, because steps may later run slower


@dataclasses.dataclass(frozen=True)
class TimeBudget:
  """Measured times of the parts of a run after compilation, and what fits in the time budget.

  Replicas that train together form a wave; the waves of a run are trained one after the other.

  Attributes:
    settings: Settings of the run.
    epoch_rows: Number of training rows in an epoch.
    step: Seconds per training step, one entry per phase.
    evaluation: Seconds per evaluation of the validation split.
    final: Time of the evaluations after training, as a multiple of `evaluation`.
  """

  settings: Settings
  epoch_rows: int
  step: tuple[float, ...]
  evaluation: float
  final: float

  def phase_seconds(self, steps: Sequence[int]) -> list[float]:
    """Returns the seconds that each phase takes, evaluations included.

    Args:
      steps: Number of steps of each phase.
    """
    # Evaluation intervals may be shares of the phase, so they depend on its number of steps.
    every = [self.settings.evaluate_every.steps(n, self.epoch_rows, self.settings.batch_size) for n in steps]
    return [
      n * seconds + math.ceil(n / between) * self.evaluation
      for n, seconds, between in zip(steps, self.step, every, strict=True)
    ]

  def wave_seconds(self, steps: Sequence[int]) -> float:
    """Returns the seconds that one wave takes, from setup to results.

    Args:
      steps: Number of steps of each phase.
    """
    return sum(self.phase_seconds(steps)) + self.final * self.evaluation + _FILES_SECONDS

  def fitting_steps(self, planned: Sequence[int], left: float, waves: int) -> tuple[tuple[int, ...], bool]:
    """Computes how many steps of each phase fit in the time left.

    Args:
      planned: Number of steps of each phase without a budget. Fewer steps keep the proportions of the phases, with at
        least one step each.
      left: Seconds left of the budget.
      waves: Number of waves that share `left`.

    Returns:
      Number of steps of each phase, and whether at least one step of each phase fits.
    """
    # The report reserve never takes more than half of the time left, however short the budget.
    of_wave = max(left - _REPORT_SECONDS, left / 2) / waves / _SLACK
    whole = sum(planned)

    def part(total: int) -> tuple[int, ...]:
      return tuple(max(n * total // whole, 1) for n in planned)

    # `wave_seconds` grows with the number of steps, so a binary search finds the largest total that fits.
    more = bisect.bisect_right(range(whole + 1), of_wave, key=lambda total: self.wave_seconds(part(total)))
    return part(max(more - 1, 0)), more > 0

  def deadlines(self, steps: Sequence[int], left: float, waves: int = 0, begin: float = 0.0) -> tuple[float, ...]:
    """Computes the latest end of each phase for replicas that start now, so that the budget is kept.

    Args:
      steps: Number of steps of each phase.
      left: Seconds left of the budget.
      waves: Number of waves still to train, this one included, each with these steps; 0 if the number of steps is
        decided by the clock alone.
      begin: Current time of the replicas' stopwatch, in seconds.

    Returns:
      Seconds on the replicas' stopwatch, one entry per phase.
    """
    # Reserved: one more evaluation that ends the last phase, the final evaluations, files and report.
    reserve = _REPORT_SECONDS + 1.3 * (1 + self.final) * self.evaluation
    # Later waves keep the time that they need. All remaining time is available to this wave, so that its deadline
    # only applies if its steps are much slower than measured.
    later = max(waves - 1, 0) * self.wave_seconds(steps)
    training = max(left - reserve - later, left / 2 / max(waves, 1))
    # Without planned waves, phases share the time in proportion to their steps.
    weights = self.phase_seconds(steps) if waves else steps
    return tuple(begin + training * done / sum(weights) for done in itertools.accumulate(weights))


def measure(
  settings: Settings,
  compiled: CompiledRun,
  phases: Sequence[Phase],
  plan: ReplicaPlan,
  group: Sequence[Replica],
  watch: Stopwatch,
) -> TimeBudget | None:
  """Compiles and times the steps and evaluations of replicas that train together; the resulting state is discarded.

  Compilation therefore happens before the first step and is not charged to any replica or phase.

  Args:
    settings: Settings of the run.
    compiled: Compiled run.
    phases: Phases of the run.
    plan: All replicas of the run.
    group: Replicas that train together.
    watch: Stopwatch of the run.

  Returns:
    Time budget, or None if the run has none.
  """
  if not settings.budget_minutes:
    return None
  step = tuple(StrategyProbe(compiled, phase, group).seconds() for phase in phases)
  variables = compiled.initial_state(phases[0], group).variables
  compiled.evaluate(variables, group, "validation")  # the first call compiles; the second is timed
  before = watch.seconds
  compiled.evaluate(variables, group, "validation")
  evaluation = watch.seconds - before
  return TimeBudget(settings, plan.epoch_rows, step, evaluation, final_evaluations(settings, plan.replicas))


def seconds_left(settings: Settings, watch: Stopwatch) -> float:
  """Returns the seconds left of the time budget, at least 1."""
  return max(60 * settings.budget_minutes - watch.seconds, 1.0)


def final_evaluations(settings: Settings, replicas: Sequence[Replica]) -> float:
  """Returns the time of the evaluations after training, as a multiple of one evaluation of the validation split.

  After training, the validation and the test split are evaluated in all views.

  Args:
    settings: Settings of the run.
    replicas: Replicas of the run; the largest split of any of them counts.
  """
  validation, test = (max(len(each.arrays.rows(split)) for each in replicas) for split in ("validation", "test"))
  return PROTOCOLS[settings.views] * (validation + test) / max(validation, 1)
