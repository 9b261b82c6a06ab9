"""Whole runs on the built-in faces: resume, budget, early stopping, divergence, signals, what is written."""

import json
import os
import signal
import threading

import jax
import numpy as np
import pytest

from configs import obsr
from fer_jax.data import arrays as arrays_lib
from fer_jax.models import resnet
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.runtime.interruption import Interrupted
from fer_jax.training.checkpoint import Checkpoints
from fer_jax.training.compiled_run import CompiledRun
from tests.tiny_run import ROWS, assert_same, config, final_state, rows, run, stop_after

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The folder of a run that nothing disturbed, and its result."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  return folder, run(folder, config())


def test_a_run_learns_and_says_what_it_did(tmp_path):
  changes = {"duration": "150 steps", "phases.bottleneck.optimizer.learning_rate": 0.02, "model.growth": 8}
  result = run(tmp_path / "run", config(**changes))
  assert result["accuracy"] > 0.8
  assert result["stopped"] == "finished"
  assert result["steps"] == 150
  confusion = np.array(result["confusion_matrix"])
  assert confusion.sum() == ROWS["test"]
  assert np.trace(confusion) / ROWS["test"] == result["accuracy"]
  assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(json.dumps(result))
  for key in ("per_class", "seconds", "device", "versions", "commit", "seeds"):
    assert result[key]
  recorded = json.loads((tmp_path / "run" / "config.json").read_text())
  assert recorded["config"]["batch_size"] == 12
  predictions = np.load(tmp_path / "run" / "predictions.npz")
  predicted = predictions["probability"].argmax(1)
  assert (predicted == predictions["label"]).mean() == pytest.approx(result["accuracy"])


def test_the_parameters_of_the_best_validation_are_the_ones_tested(whole):
  folder, result = whole
  evaluations = rows(folder, "eval")
  best = max((e for e in evaluations if e["split"] == "validation"), key=lambda e: (e["accuracy"], e["step"]))
  assert result["validation"] == {"accuracy": best["accuracy"], "step": best["step"]}
  assert sum(e["split"] == "test" for e in evaluations) == 1


@pytest.mark.parametrize("stop_at", [4, 10, 27])
def test_a_stopped_and_resumed_run_ends_bit_for_bit_as_one_that_never_stopped(whole, tmp_path, monkeypatch, stop_at):
  folder, result = whole
  stop_after(monkeypatch, stop_at + 1)
  every_step = config(**{"log_every": "1 steps"})
  with pytest.raises(Interrupted, match="run the same command to resume"):
    run(tmp_path / "parts", every_step)
  resumed = run(tmp_path / "parts", every_step)
  assert_same(final_state(folder), final_state(tmp_path / "parts"))
  assert resumed["confusion_matrix"] == result["confusion_matrix"]
  assert any("resumed from step" in row["text"] for row in rows(tmp_path / "parts", "event"))


@pytest.mark.slow
def test_four_devices_end_where_one_does(whole, tmp_path):
  folder, one = whole
  four = run(tmp_path / "four", config(), devices=4)
  assert four["loss"] == pytest.approx(one["loss"], abs=1e-2)
  first = [rows(path, "train")[0]["loss"] for path in (folder, tmp_path / "four")]
  assert first[0] == pytest.approx(first[1], rel=1e-5)


@pytest.mark.slow
def test_rows_on_the_host_train_as_rows_on_the_device_do(whole, tmp_path):
  host = run(tmp_path / "host", config(**{"data.residence": "host"}))
  assert host["loss"] == pytest.approx(whole[1]["loss"], rel=1e-4)


def test_a_finished_run_shows_its_result_again(whole, capsys):
  folder, first = whole
  before = (folder / "metrics.jsonl").read_text()
  assert run(folder, config()) == json.loads(json.dumps(first))
  assert (folder / "metrics.jsonl").read_text() == before
  assert "finished run" in capsys.readouterr().out


def test_another_config_is_not_let_into_the_folder(whole):
  with pytest.raises(UserError, match="config.seed is 0 there and 1 here"):
    run(whole[0], config(seed=1))


@pytest.mark.slow
def test_a_time_budget_ends_in_time_with_results_and_a_finished_schedule(tmp_path):
  result = run(tmp_path / "run", config(**{"duration": "1000000 steps", "budget_minutes": 0.5, "log_every": "1 steps"}))
  assert result["stopped"] == "time budget"
  assert result["steps"] < 1000000
  trained = rows(tmp_path / "run", "train")
  assert {row["phase"] for row in trained} == {"bottleneck", "deepening"}
  last = [row for row in trained if row["phase"] == "bottleneck"][-1]
  assert last["learning_rate"] < 0.05 * max(row["learning_rate"] for row in trained)
  assert result["seconds"] < 40


def test_early_stopping_ends_a_phase(tmp_path):
  changes = {"phases.bottleneck.patience": 1, "phases.bottleneck.optimizer.learning_rate": 0.0}
  run(tmp_path / "run", config(duration="100 steps", **changes))
  steps = [row["step"] for row in rows(tmp_path / "run", "train") if row["phase"] == "bottleneck"]
  assert max(steps) < 80
  assert any("early stopping" in row["text"] for row in rows(tmp_path / "run", "event"))


def test_a_training_that_diverges_stops_and_says_what_to_do(tmp_path):
  broken = config(**{"phases.bottleneck.optimizer.learning_rate": float("nan"), "log_every": "1 steps"})
  with pytest.raises(Failure, match=r"diverged.*step.*phase bottleneck.*learning_rate"):
    run(tmp_path / "run", broken)
  assert not (tmp_path / "run" / "result.json").exists()


def test_a_phase_that_ends_in_no_number_is_not_saved(tmp_path):
  """Though no step but the first is logged, no classifier is there to be validated, and no checkpoint is due."""
  changes = {"log_every": "99 steps", "evaluate_every": "99 steps", "checkpoint_every": "99 steps"}
  changes |= {"phases.bottleneck.train": ("block*", "pyramid*")}
  changes |= {"phases.bottleneck.optimizer.learning_rate": float("nan")}
  with pytest.raises(Failure, match=r"diverged: loss is nan at step 27 in phase bottleneck"):
    run(tmp_path / "run", config(**changes))
  assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(("step", "kept"), [(5, []), (10, [5]), (27, [20, 25]), (30, [25, 27])])
def test_parameters_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch, step, kept):
  """At a checkpoint, an evaluation and the ends of both phases; the loss that made them may have been a number."""
  take, taken = CompiledRun.train_step, []

  def taking(self, *arguments):
    state, metrics = take(self, *arguments)
    taken.append(state)
    if len(taken) == step:
      state = state.replace(params=jax.tree.map(lambda x: x * float("nan"), state.params))
    return state, metrics

  monkeypatch.setattr(CompiledRun, "train_step", taking)
  phase = "bottleneck" if step < 28 else "deepening"
  with pytest.raises(Failure, match=f"diverged: .* is nan at step {step} in phase {phase}"):
    run(tmp_path / "run", config())
  with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
    assert sorted(checkpoints.progress_by_step()) == kept


def test_a_step_is_saved_once_at_the_end_of_a_phase_too(tmp_path, monkeypatch):
  saved, save = [], Checkpoints.save

  def saving(self, state, iterator, progress, accuracy):
    saved.append(progress.step)
    save(self, state, iterator, progress, accuracy)

  monkeypatch.setattr(Checkpoints, "save", saving)
  run(tmp_path / "run", config(**{f"phases.{name}.duration": "10 steps" for name in ("bottleneck", "deepening")}))
  assert saved == [5, 10, 15, 20]


def test_missing_data_leaves_no_folder(tmp_path, monkeypatch):
  def missing(*args, **kwargs):
    raise UserError("no data")

  monkeypatch.setattr(arrays_lib, "load", missing)
  with pytest.raises(UserError):
    run(tmp_path / "run", config())
  assert not (tmp_path / "run").exists()


def test_a_phase_that_fits_no_layer_leaves_no_folder(tmp_path):
  with pytest.raises(UserError, match=r"config\.phases\.bottleneck\.train: 'nothing' matches no layer"):
    run(tmp_path / "run", config(**{"phases.bottleneck.train": ("nothing",)}))
  assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_split_over_the_devices_is_refused(tmp_path):
  with pytest.raises(UserError, match="config.batch_size=10 does not split over 4 devices"):
    run(tmp_path / "run", config(batch_size=10), devices=4)


def test_extractors_begin_with_a_run_s_weights_and_stay_frozen_to_the_bit(tmp_path, monkeypatch):
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1))
  changes = {"model.depth": 18, "model.width": 2, "batch_size": 12, "eval_batch_size": 8}
  changes |= {"duration": "6 steps", "evaluate_every": "3 steps", "checkpoint_every": "3 steps"}
  donor, frozen = obsr.get_config("demo,resnet34"), obsr.get_config("demo")
  donor.update_from_flattened_dict(changes)
  frozen.update_from_flattened_dict({**changes, "pretrained.path": str(tmp_path / "donor")})
  frozen.schedule = ("head",)
  del frozen.phases.whole
  result = run(tmp_path / "donor", donor)
  with Checkpoints(tmp_path / "donor" / "checkpoints") as checkpoints:
    given = checkpoints.restore_variables(result["validation"]["step"])
  assert run(tmp_path / "run", frozen, devices=2)["pretrained"]["source"] == str(tmp_path / "donor")
  for tree, of in zip(final_state(tmp_path / "run"), given, strict=True):
    for prefix in ("a_", "b_"):
      assert_same(
        {n: v for n, v in tree.items() if n.startswith(prefix)},
        {f"{prefix}{n}": of[n] for n in of if n != "classifier"},
      )
  assert any("arrays filled" in row["text"] for row in rows(tmp_path / "run", "event"))


def test_weights_that_do_not_fit_leave_nothing(whole, tmp_path):
  folder, _ = whole
  unfit = obsr.get_config("demo")
  unfit.pretrained.path = str(folder)
  with pytest.raises(UserError, match="seems to have another architecture"):
    run(tmp_path / "run", unfit)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(tmp_path, signum):
  timer = threading.Timer(8, os.kill, (os.getpid(), signum))
  timer.start()
  with pytest.raises(Interrupted) as stop:
    run(tmp_path / "run", config(duration="1000000 steps"))
  timer.cancel()
  assert stop.value.signum == signum
  steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
  assert steps[-1] == int(str(stop.value).split("step ")[1].split(";")[0])
