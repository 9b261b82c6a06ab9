"""Time budgets, with a fake clock that only compilation, steps and evaluations advance."""

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
# Three replicas, one at a time, with two phases of 40 steps; an evaluation after every tenth step.
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
  """Durations of all operations, in seconds of a fake clock.

  Attributes:
    compilation: Seconds to compile a program: of each phase's step, or of evaluation.
    step: Seconds of a step by seed of the run; one second for other seeds.
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

  monkeypatch.setattr(run_log, "_COMPILE_EVENT", "")  # real compilations do not advance the fake clock
  monkeypatch.setattr(CompiledRun, "train_step", stepping)
  monkeypatch.setattr(CompiledRun, "evaluate", evaluating)
  monkeypatch.setitem(CLOCKS, "wall", lambda: machine.now)
  return machine


def make_config(minutes, **changes):
  return config(**CHANGES | {"budget_minutes": minutes} | changes)


def steps_of(result):
  return [each["steps"] for each in result["runs"]]


def rates(folder, fold):
  return [row["learning_rate"] for row in rows(folder / "replicas" / f"fold_{fold}", "train")]


class TestFoldsOneAtATime:
  def test_compilation_is_shared_and_all_folds_take_equal_steps(self, tmp_path, machine, capsys):
    result = run(tmp_path / "run", make_config(6, log_every="1 steps"))
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
    # All learning rate schedules are equal and complete.
    first, *others = (rates(tmp_path / "run", fold) for fold in range(FOLDS))
    assert first[len(first) // 2 - 1] < 0.02 * max(first[: len(first) // 2])
    assert others == [first, first]

  def test_a_run_that_fits_is_not_shortened(self, tmp_path, machine, capsys):
    short = {f"phases.{name}.duration": "5 steps" for name in ("bottleneck", "deepening")}
    result = run(tmp_path / "run", make_config(60, duration="10 steps", **short))
    assert steps_of(result) == [10] * FOLDS
    assert result["stopped"] == "finished"
    assert "all 10 steps fit" in capsys.readouterr().out

  def test_a_resumed_run_takes_the_planned_steps(self, tmp_path, machine, monkeypatch):
    stop_after(monkeypatch, 12)
    with pytest.raises(Interrupted):
      run(tmp_path / "run", make_config(6))
    planned = json.loads((tmp_path / "run/replicas/budget.json").read_text())["steps"]
    machine.compilation = 0.0  # the programs are cached: measured again, more steps would fit
    result = run(tmp_path / "run", make_config(6))
    assert steps_of(result) == [sum(planned)] * FOLDS

  def test_reports_unequal_steps(self, tmp_path, machine, capsys):
    machine.step = {2: 10.0}
    result = run(tmp_path / "run", make_config(6))
    first, second, third = steps_of(result)
    assert first == second > third
    (note,) = (note for note in result["notes"] if "different numbers of steps" in note)
    assert f"fold_0 {first} (time budget), fold_1 {second} (time budget), fold_2 {third} (time budget)" in note
    assert f"{first} were planned" in note
    assert note in capsys.readouterr().out
    assert result["seconds"] < 360

  def test_reports_a_budget_below_one_step(self, tmp_path, machine, capsys):
    result = run(tmp_path / "run", make_config(0.5))
    assert steps_of(result) == [2] * FOLDS
    (note,) = (note for note in result["notes"] if "budget_minutes" in note)
    assert "one step of each phase" in note
    assert note in capsys.readouterr().out


@pytest.mark.slow
def test_vectorized_folds_share_the_clock(tmp_path, machine):
  result = run(tmp_path / "run", make_config(4, replica_strategy="vmap"))
  first, *others = steps_of(result)
  assert others == [first, first]
  assert 20 < first < 80
  assert result["stopped"] == "time budget"
  assert result["seconds"] < 240


def test_compilation_of_a_later_phase_is_within_the_budget(tmp_path, machine):
  machine.compilation = 100.0
  result = run(tmp_path / "run", config(budget_minutes=6, duration="400 steps", evaluate_every="400 steps"))
  assert result["stopped"] == "time budget"
  assert result["seconds"] < 360
  assert {row["phase"] for row in rows(tmp_path / "run", "train")} == {"bottleneck", "deepening"}


def test_budget_of_processor_time(tmp_path, machine, monkeypatch):
  monkeypatch.setitem(CLOCKS, "cpu", CLOCKS["wall"])
  monkeypatch.setitem(CLOCKS, "wall", time.monotonic)  # differs from the fake clock
  changes = {"clock": "cpu", "budget_minutes": 6, "duration": "400 steps", "evaluate_every": "400 steps"}
  result = run(tmp_path / "run", config(**changes))
  assert (result["stopped"], result["clock"]) == ("time budget", "cpu")
  assert 180 < result["seconds"] < 360
