"""Time budgets: the steps that fit, and the deadlines of the phases."""

import pytest

from fer_jax.config.parsing import parse
from fer_jax.training.time_budget import TimeBudget
from tests.tiny_run import config

BUDGET = TimeBudget(parse(config(evaluate_every="5 steps")), 60, (1.0, 2.0), evaluation=5.0, final=2.0)


@pytest.mark.parametrize(("left", "expected"), [(1, (1, 1)), (260, (10, 5)), (2000, (40, 20))])
def test_fitting_steps_preserve_the_proportions_of_the_phases(left, expected):
  steps, fits = BUDGET.fitting_steps((40, 20), left, waves=4)
  assert steps == expected
  assert fits == (4 * BUDGET.wave_seconds(steps) <= left)


def test_phase_seconds_include_steps_and_evaluations():
  assert BUDGET.phase_seconds((11, 5)) == [11 * 1.0 + 3 * 5.0, 5 * 2.0 + 5.0]


def test_deadlines_reserve_time_for_later_waves():
  one, two = (BUDGET.deadlines((11, 5), 500.0, waves) for waves in (1, 2))
  assert one[-1] - two[-1] == pytest.approx(BUDGET.wave_seconds((11, 5)))
  assert two[0] / two[1] == pytest.approx(26 / 41)


def test_deadlines_of_a_single_run_are_proportional_to_the_steps():
  first, last = BUDGET.deadlines((90, 10), 400.0, begin=100.0)
  assert first - 100 == pytest.approx(0.9 * (last - 100))
  assert 400 < last < 500
