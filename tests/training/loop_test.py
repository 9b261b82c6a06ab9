"""Time budgets on a clock that only compilation, steps and evaluations move: steps that fit, equal for all folds."""

import json
import time

import pytest

from fer_jax.config.settings import CLOCKS
from fer_jax.runtime.interruption import Interrupted
from fer_jax.training import run_log
from fer_jax.training.compiled_run import CompiledRun
from tests.tiny_run import config, rows, run, stop_after

pytestmark = pytest.mark.usefixtures("tiny_data")
FOLDS = 3
# Three runs, one at a time, of two phases of 40 steps; an evaluation after every tenth.
CHANGES = {
  "folds.by": "images",
  "folds.count": FOLDS,
  "replicas": 0,
  "replica_strategy": "loop",
  "duration": "80 steps",
  "evaluate_every": "10 steps",
  "checkpoint_every": "40 steps",
  "phases.bottleneck.duration": "40 steps",
  "phases.deepening.duration": "40 steps",
}


class Machine:
  """What everything takes, in seconds of its own clock.

  Attributes:
    compilation: Seconds to compile a program: of each phase's step, or of evaluation.
    step: Seconds of a step by the seed of the run, where it is not one second.
    now: Time on the clock.
  """

  def __init__(self):
    self.compilation, self.step, self.now = 40.0, {}, 1000.0


@pytest.fixture
def machine(monkeypatch):
  machine, compiled = Machine(), []
  train_step, evaluate = CompiledRun.train_step, CompiledRun.evaluate

  def compiling(program):
    if program not in compiled:
      compiled.append(program)
      machine.now += machine.compilation
      monkeypatch.setattr(run_log, "_compile_seconds", run_log._compile_seconds + machine.compilation)

  def stepping(self, phase, state, batches, contexts):
    compiling(self.train_steps[phase.identity])
    machine.now += machine.step.get(int(contexts[0].seed), 1.0)
    return train_step(self, phase, state, batches, contexts)

  def evaluating(self, *arguments, **options):
    compiling(self.eval_step)
    machine.now += 2.0
    return evaluate(self, *arguments, **options)

  monkeypatch.setattr(run_log, "_COMPILE_EVENT", "")  # this clock does not move for what is really compiled
  monkeypatch.setattr(CompiledRun, "train_step", stepping)
  monkeypatch.setattr(CompiledRun, "evaluate", evaluating)
  monkeypatch.setitem(CLOCKS, "wall", lambda: machine.now)
  return machine


def several(minutes, **changes):
  return config(**CHANGES | {"budget_minutes": minutes} | changes)


def steps_of(result):
  return [each["steps"] for each in result["runs"]]


def rates(folder, fold):
  return [row["learning_rate"] for row in rows(folder / "replicas" / f"fold_{fold}", "train")]


class TestFoldsByTurns:
  def test_compilation_is_charged_to_no_fold_and_all_take_equal_steps(self, tmp_path, machine, capsys):
    result = run(tmp_path / "run", several(6, log_every="1 steps"))
    steps = steps_of(result)
    assert len(set(steps)) == 1
    assert 20 < steps[0] < 80
    assert result["seconds"] == pytest.approx(machine.now - 1000)
    assert result["seconds"] < 360
    assert result["stopped"] == "time budget"
    assert f"{steps[0]} of 80 steps fit for each of 3 runs" in capsys.readouterr().out
    assert not any("different numbers of steps" in note for note in result["notes"])
    each = [json.loads((tmp_path / f"run/replicas/fold_{fold}/result.json").read_text()) for fold in range(FOLDS)]
    for what in ("train", "evaluate"):
      assert result["time"][what] == sum(one["time"][what] for one in each) > 0
    assert each[0]["seconds"] == each[1]["seconds"] == each[2]["seconds"]
    # The schedules are alike, and reach their ends.
    first, *others = (rates(tmp_path / "run", fold) for fold in range(FOLDS))
    assert first[len(first) // 2 - 1] < 0.02 * max(first[: len(first) // 2])
    assert others == [first, first]

  def test_what_fits_is_not_cut(self, tmp_path, machine, capsys):
    short = {f"phases.{name}.duration": "5 steps" for name in ("bottleneck", "deepening")}
    result = run(tmp_path / "run", several(60, duration="10 steps", **short))
    assert steps_of(result) == [10] * FOLDS
    assert result["stopped"] == "finished"
    assert "all 10 steps fit" in capsys.readouterr().out

  def test_a_resumed_run_takes_as_many(self, tmp_path, machine, monkeypatch):
    stop_after(monkeypatch, 12)
    with pytest.raises(Interrupted):
      run(tmp_path / "run", several(6))
    planned = json.loads((tmp_path / "run/replicas/budget.json").read_text())["steps"]
    machine.compilation = 0.0  # the programs were kept: measured now, more steps would fit
    result = run(tmp_path / "run", several(6))
    assert steps_of(result) == [sum(planned)] * FOLDS

  def test_unequal_steps_are_told(self, tmp_path, machine, capsys):
    machine.step = {2: 10.0}
    result = run(tmp_path / "run", several(6))
    first, second, third = steps_of(result)
    assert first == second > third
    (note,) = (note for note in result["notes"] if "different numbers of steps" in note)
    assert f"fold_0 {first} (time budget), fold_1 {second} (time budget), fold_2 {third} (time budget)" in note
    assert f"{first} were planned" in note
    assert note in capsys.readouterr().out
    assert result["seconds"] < 360

  def test_no_room_for_a_step_is_told(self, tmp_path, machine, capsys):
    result = run(tmp_path / "run", several(0.5))
    assert steps_of(result) == [2] * FOLDS
    (note,) = (note for note in result["notes"] if "budget_minutes" in note)
    assert "one step of each phase" in note
    assert note in capsys.readouterr().out


@pytest.mark.slow
def test_folds_side_by_side_share_the_clock(tmp_path, machine):
  result = run(tmp_path / "run", several(4, replica_strategy="vmap"))
  first, *others = steps_of(result)
  assert others == [first, first]
  assert 20 < first < 80
  assert result["stopped"] == "time budget"
  assert result["seconds"] < 240


def test_a_later_phase_s_compilation_does_not_make_a_single_run_late(tmp_path, machine):
  machine.compilation = 100.0
  result = run(tmp_path / "run", config(budget_minutes=6, duration="400 steps", evaluate_every="400 steps"))
  assert result["stopped"] == "time budget"
  assert result["seconds"] < 360
  assert {row["phase"] for row in rows(tmp_path / "run", "train")} == {"bottleneck", "deepening"}


def test_a_budget_may_be_of_processor_time(tmp_path, machine, monkeypatch):
  monkeypatch.setitem(CLOCKS, "cpu", CLOCKS["wall"])
  monkeypatch.setitem(CLOCKS, "wall", time.monotonic)  # far behind
  changes = {"clock": "cpu", "budget_minutes": 6, "duration": "400 steps", "evaluate_every": "400 steps"}
  result = run(tmp_path / "run", config(**changes))
  assert (result["stopped"], result["clock"]) == ("time budget", "cpu")
  assert 180 < result["seconds"] < 360
