import itertools
import json
import sys

import jax
import numpy as np
import optax
import pytest

from fer_jax.apps import bench
from fer_jax.apps.benchmarks import centralization
from fer_jax.apps.benchmarks.centralization import DIRECTION, GC_STEP, GRADIENT, STEP, UPDATES, gc, layouts
from fer_jax.apps.benchmarks.steps import Program
from fer_jax.optim import centralize_gradients
from fer_jax.runtime.errors import UserError

NOT_CENTRALIZED = 5e-3  # mean gradients exceed this before centralization; rounding errors are far below


@pytest.fixture(scope="module")
def rows():
  pytest.importorskip("equinox", reason="Equinox is not installed: pip install equinox")
  return {row["name"]: row for row in layouts("", 1).rows}


class TestLayouts:
  def test_mean_gradients_are_not_zero_before(self, rows):
    for name, row in rows.items():
      assert name.endswith("gradient lost") or row["before"] > NOT_CENTRALIZED

  def test_ours_removes_all_means_except_where_default_axes_are_wrong(self, rows):
    remaining = {name for name, row in rows.items() if row["ours"] > 1e-6}
    assert remaining == {name for name in rows if name.endswith("by default")}
    assert len(remaining) == 2

  def test_optax_centralizes_equinox_but_not_linen(self, rows):
    for name, row in rows.items():
      if name.startswith("linen"):
        assert row["optax_centralize"] > NOT_CENTRALIZED
      elif not name.endswith("gradient lost"):
        assert row["optax_centralize"] < 1e-6

  def test_optax_does_not_change_a_softmax_head(self, rows):
    row = rows["linen Dense, softmax head"]
    assert row["optax_centralize"] == pytest.approx(row["before"], rel=1e-5)

  def test_only_optax_removes_the_bias_gradient_of_an_equinox_convolution(self, rows):
    row = rows["Equinox Conv2d, share of the bias's gradient lost"]
    assert (row["optax_centralize"], row["ours"]) == (pytest.approx(1, abs=1e-5), 0)

  def test_means_do_not_depend_on_the_transforms_axes(self, rows, monkeypatch):
    monkeypatch.setattr(centralization, "centralize_gradients", lambda *args, **options: optax.centralize())
    for row in layouts("", 1).rows:
      assert row["ours"] == row["optax_centralize"]
    assert centralize_gradients is not centralization.centralize_gradients

  def test_runs_from_the_command_line(self, rows, tmp_path, capsys):
    out = tmp_path / "layouts.json"
    bench.main(["--what=layouts", f"--out={out}"])
    found = json.loads(out.read_text())
    assert found["headline"] == "linen Conv"
    assert [row["name"] for row in found["rows"]] == list(rows)
    assert "linen Dense, softmax head" in capsys.readouterr().out


def test_layouts_without_equinox_names_the_package_to_install(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "equinox", None)
  out = tmp_path / "out" / "layouts.json"
  with pytest.raises(UserError, match="--what=layouts: Equinox is not installed; install it by `pip install equinox`"):
    bench.main(["--what=layouts", f"--out={out}"])
  assert not out.parent.exists()


class TestCost:
  def test_differences_are_paired_within_a_turn(self, config, monkeypatch):
    clock = itertools.count()

    def fake_seconds(programs, rounds):
      assert rounds == 1
      turn = next(clock)
      slow = 100.0 * (turn % 2)  # slowdown that affects all programs of a turn
      if STEP in programs:
        return {STEP: 1000 + slow, GC_STEP: 1000 + slow + (30, -10, 20)[turn % 3]}
      adamw, direction, gradient = programs
      return {adamw: 10 + slow, direction: 12 + slow, gradient: 11 + slow}

    monkeypatch.setattr(centralization, "compile_program", lambda function, arguments: Program(lambda: None, 0))
    monkeypatch.setattr(centralization, "median_seconds", fake_seconds)
    found = gc(config, 3)
    adamw, direction, gradient, step, gc_step = found.rows
    assert next(clock) == 3 * UPDATES + 3
    assert found.headline == direction["name"] == DIRECTION
    assert [row["time_ratio"] for row in (adamw, step)] == [1, 1]
    step_seconds = step["seconds"]
    assert direction["time_ratio"] == pytest.approx(1 + 2 / adamw["seconds"])
    for row, extra in ((adamw, 0), (direction, 2), (gradient, 1)):
      for key in ("share_of_step", "share_low", "share_high"):
        assert row[key] == pytest.approx(extra / step_seconds)
    assert gc_step["share_of_step"] == pytest.approx(20 / step_seconds)
    assert (gc_step["share_low"], gc_step["share_high"]) == (-10 / step_seconds, 30 / step_seconds)

  def test_median_interval_has_the_stated_coverage(self):
    draws = np.sort(np.random.default_rng(0).exponential(size=(4000, 15)))
    low, high = np.array([centralization._median_interval(list(row)) for row in draws]).T
    covered = np.mean((low <= np.log(2)) & (np.log(2) <= high))
    assert 0.955 < covered < 0.972  # exact coverage of the sign test at n = 15: 1 - 2 P(X <= 3) = 0.9648

  def test_programs_apply_updates(self, config, monkeypatch):
    compiled = {}

    def record(function, arguments):
      compiled[len(compiled)] = (arguments, jax.jit(function)(*arguments))
      return Program(lambda: None, 0)

    monkeypatch.setattr(centralization, "compile_program", record)
    monkeypatch.setattr(centralization, "median_seconds", lambda programs, rounds: dict.fromkeys(programs, 1.0))
    gc(config, 1)
    shifts = []
    for (_, state, before), (after, moments) in [compiled[i] for i in range(3)]:
      assert jax.tree.structure(moments) == jax.tree.structure(state)
      assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
      shifts.append(largest_shift(before, after))
    adamw, direction, gradient = shifts
    assert direction < 1e-6
    assert min(adamw, gradient) > 1e-5
    for i in (3, 4):
      (state, *_), (stepped, _) = compiled[i]
      assert (stepped.step, largest_shift(state.params, stepped.params) < 1e-6) == (1, i == 4)

  def test_runs_from_the_command_line(self, config, tmp_path, capsys):
    out = tmp_path / "gc.json"
    bench.main(["--what=gc", f"--config={config}", "--rounds=2", f"--out={out}"])
    found = json.loads(out.read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == ["adamw update", DIRECTION, GRADIENT, STEP, GC_STEP]
    assert all(row["seconds"] > 0 and row["share_low"] <= row["share_of_step"] for row in found["rows"])
    assert DIRECTION in capsys.readouterr().out


def largest_shift(before, after):
  """Returns the largest change of the mean weight of a unit."""
  kernels = [(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True) if a.ndim > 1]
  several = [(a, b) for a, b in kernels if a.size > a.shape[-1]]  # several inputs per unit
  return max(np.abs(np.mean(b - a, tuple(range(a.ndim - 1)))).max() for a, b in several)
