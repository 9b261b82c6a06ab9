"""Tests of curves of records, their reduction to a few hundred points, and legends."""

import numpy as np
import pytest

from fer_jax.apps.pages.charts import Chart, Line, curve_of, line_of, mean_line


def test_line_has_one_piece_per_phase_with_points_in_proportion_to_its_records() -> None:
  records = [{"step": step, "phase": "first" if step < 900 else "second", "loss": step % 7} for step in range(1200)]
  line = line_of("loss", "red", [*records, {"step": 1200, "phase": "second"}], "loss")
  (steps, values), (second_steps, _) = line.pieces
  assert (len(steps), len(second_steps)) == (180, 60)
  np.testing.assert_array_equal(steps, np.arange(900).reshape(180, 5).mean(axis=1))
  np.testing.assert_array_equal(values, (np.arange(900) % 7).reshape(180, 5).mean(axis=1))


def test_value_that_is_not_finite_leaves_a_gap() -> None:
  values = [1.0, float("nan"), None, "x", 2.0]
  records = [{"step": step, "loss": value} for step, value in enumerate(values)]
  ((_, drawn),) = line_of("loss", "red", records, "loss").pieces
  np.testing.assert_array_equal(drawn, [1, np.nan, np.nan, np.nan, 2])
  assert curve_of(records, "loss")[0].tolist() == [0, 1, 3, 4]  # None is skipped
  assert not Line("loss", "red", [(np.arange(1), np.array([np.nan]))]).drawable


def test_mean_line_averages_the_curves_that_reach_a_step() -> None:
  curves = [(np.array([0.0, 10.0]), np.array([0.0, 1.0])), (np.array([0.0, 5.0, 20.0]), np.array([1.0, 1.0, 4.0]))]
  line = mean_line("mean", "red", curves)
  ((steps, mean),), ((_, low, high),) = line.pieces, line.bands
  assert steps.tolist() == [0, 5, 20]
  np.testing.assert_allclose(mean, [0.5, 0.75, 4])
  np.testing.assert_allclose(high - low, [2 * np.std([0, 1], ddof=1), 2 * np.std([0.5, 1], ddof=1), 0])
  assert not mean_line("one", "red", curves[:1]).bands


@pytest.mark.parametrize(
  ("names", "ringed", "texts"),
  [
    (["loss"], None, []),
    (["training"], None, ["training"]),
    (["loss"], (1000, 0.5), ["loss", "selected, step 1,000"]),
    (["training", "", "validation"], None, ["training", "validation"]),
  ],
)
def test_legend_omits_a_single_line_and_lines_without_a_name(
  names: list[str], ringed: tuple[float, float] | None, texts: list[str]
) -> None:
  chart = Chart("Loss", [Line(name, "red", []) for name in names], ringed=ringed)
  assert [text for _, _, text in chart.legend] == texts
