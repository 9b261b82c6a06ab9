"""Complete runs: resuming, time budget, early stopping, divergence, signals and written files."""

import json
import os
import signal
import threading

import jax
import numpy as np
import pytest

from configs import obsr
from fer_jax.data import arrays as arrays_lib
from fer_jax.inference import trained_model
from fer_jax.models import resnet
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.runtime.interruption import Interrupted
from fer_jax.training.checkpoint import Checkpoints
from fer_jax.training.compiled_run import CompiledRun
from tests.tiny_run import ROWS, assert_same, config, final_state, rows, run, stop_after

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """Folder and result of an uninterrupted run."""
  folder = tmp_path_factory.mktemp("uninterrupted") / "run"
  return folder, run(folder, config())


def test_a_run_learns_and_writes_its_results(tmp_path):
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


def test_tests_the_best_validated_parameters(uninterrupted):
  folder, result = uninterrupted
  evaluations = rows(folder, "eval")
  best = max((e for e in evaluations if e["split"] == "validation"), key=lambda e: (e["accuracy"], e["step"]))
  assert result["validation"] == {"accuracy": best["accuracy"], "step": best["step"]}
  assert sum(e["split"] == "test" for e in evaluations) == 1


@pytest.mark.parametrize("stop_at", [4, 10, 27])
def test_a_resumed_run_equals_an_uninterrupted_run(uninterrupted, tmp_path, monkeypatch, stop_at):
  folder, result = uninterrupted
  stop_after(monkeypatch, stop_at + 1)
  every_step = config(**{"log_every": "1 steps"})
  with pytest.raises(Interrupted, match="run the same command to resume"):
    run(tmp_path / "parts", every_step)
  resumed = run(tmp_path / "parts", every_step)
  assert_same(final_state(folder), final_state(tmp_path / "parts"))
  assert resumed["confusion_matrix"] == result["confusion_matrix"]
  assert any("resumed from step" in row["text"] for row in rows(tmp_path / "parts", "event"))


def test_projection_heads_are_trained_saved_and_resumed_but_not_part_of_the_network(
  uninterrupted, tmp_path, monkeypatch
):
  learned = {"head_layers": 1, "head_features": 3, "grid": 2, "sampling": 2, "sampled_side": 4}
  with_heads = config(**{f"phases.bottleneck.objective.{name}": value for name, value in learned.items()})
  result = run(tmp_path / "whole", with_heads)
  stop_after(monkeypatch, 13)
  with pytest.raises(Interrupted):
    run(tmp_path / "parts", with_heads)
  run(tmp_path / "parts", with_heads)
  params, _ = final_state(tmp_path / "whole")
  assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
  assert params["block1_stem"]["projection_head"]["dense1"]["kernel"].shape == (2 * 2 * 4, 3)
  network = trained_model.load(tmp_path / "whole")
  assert not any("projection_head" in of_layer for of_layer in network.params.values())
  assert result["parameters"] == uninterrupted[1]["parameters"]


@pytest.mark.slow
def test_four_devices_equal_one(uninterrupted, tmp_path):
  folder, one = uninterrupted
  four = run(tmp_path / "four", config(), devices=4)
  assert four["loss"] == pytest.approx(one["loss"], abs=1e-2)
  first = [rows(path, "train")[0]["loss"] for path in (folder, tmp_path / "four")]
  assert first[0] == pytest.approx(first[1], rel=1e-5)


@pytest.mark.slow
def test_host_residence_equals_device_residence(uninterrupted, tmp_path):
  host = run(tmp_path / "host", config(**{"data.residence": "host"}))
  assert host["loss"] == pytest.approx(uninterrupted[1]["loss"], rel=1e-4)


def test_a_finished_run_returns_its_result(uninterrupted, capsys):
  folder, first = uninterrupted
  before = (folder / "metrics.jsonl").read_text()
  assert run(folder, config()) == json.loads(json.dumps(first))
  assert (folder / "metrics.jsonl").read_text() == before
  assert "finished run" in capsys.readouterr().out


def test_rejects_another_config_in_the_same_folder(uninterrupted):
  with pytest.raises(UserError, match="config.seed is 0 there and 1 here"):
    run(uninterrupted[0], config(seed=1))


@pytest.mark.slow
def test_a_time_budget_ends_in_time_with_a_complete_schedule(tmp_path):
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


def test_reports_divergence(tmp_path):
  diverging = config(**{"phases.bottleneck.optimizer.learning_rate": float("nan"), "log_every": "1 steps"})
  with pytest.raises(Failure, match=r"diverged.*step.*phase bottleneck.*learning_rate"):
    run(tmp_path / "run", diverging)
  assert not (tmp_path / "run" / "result.json").exists()


def test_does_not_save_a_diverged_phase(tmp_path):
  """Even if only the first step is logged, there is no classifier to validate, and no checkpoint is due."""
  changes = {"log_every": "99 steps", "evaluate_every": "99 steps", "checkpoint_every": "99 steps"}
  changes |= {"phases.bottleneck.train": ("block*", "pyramid*")}
  changes |= {"phases.bottleneck.optimizer.learning_rate": float("nan")}
  with pytest.raises(Failure, match=r"diverged: loss is nan at step 27 in phase bottleneck"):
    run(tmp_path / "run", config(**changes))
  assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(("step", "expected"), [(5, []), (10, [5]), (27, [20, 25]), (30, [25, 27])])
def test_does_not_save_non_finite_parameters(tmp_path, monkeypatch, step, expected):
  """At a checkpoint, an evaluation and the ends of both phases, even if the loss before was finite."""
  original, states = CompiledRun.train_step, []

  def train_step(self, *arguments):
    state, metrics = original(self, *arguments)
    states.append(state)
    if len(states) == step:
      state = state.replace(params=jax.tree.map(lambda x: x * float("nan"), state.params))
    return state, metrics

  monkeypatch.setattr(CompiledRun, "train_step", train_step)
  phase = "bottleneck" if step < 28 else "deepening"
  with pytest.raises(Failure, match=f"diverged: .* is nan at step {step} in phase {phase}"):
    run(tmp_path / "run", config())
  with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
    assert sorted(checkpoints.progress_by_step()) == expected


def test_saves_each_step_once(tmp_path, monkeypatch):
  saved, save = [], Checkpoints.save

  def save_and_record(self, state, iterator, progress, accuracy):
    saved.append(progress.step)
    save(self, state, iterator, progress, accuracy)

  monkeypatch.setattr(Checkpoints, "save", save_and_record)
  run(tmp_path / "run", config(**{f"phases.{name}.duration": "10 steps" for name in ("bottleneck", "deepening")}))
  assert saved == [5, 10, 15, 20]


def test_missing_data_creates_no_folder(tmp_path, monkeypatch):
  def missing(*args, **kwargs):
    raise UserError("no data")

  monkeypatch.setattr(arrays_lib, "load", missing)
  with pytest.raises(UserError):
    run(tmp_path / "run", config())
  assert not (tmp_path / "run").exists()


def test_a_phase_without_layers_creates_no_folder(tmp_path):
  with pytest.raises(UserError, match=r"config\.phases\.bottleneck\.train: 'nothing' matches no layer"):
    run(tmp_path / "run", config(**{"phases.bottleneck.train": ("nothing",)}))
  assert not (tmp_path / "run").exists()


def test_rejects_batches_that_do_not_split_over_the_devices(tmp_path):
  with pytest.raises(UserError, match="config.batch_size=10 does not split over 4 devices"):
    run(tmp_path / "run", config(batch_size=10), devices=4)


def test_pretrained_extractors_stay_frozen(tmp_path, monkeypatch):
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
    donor_variables = checkpoints.restore_variables(result["validation"]["step"])
  assert run(tmp_path / "run", frozen, devices=2)["pretrained"]["source"] == str(tmp_path / "donor")
  for tree, of in zip(final_state(tmp_path / "run"), donor_variables, strict=True):
    for prefix in ("a_", "b_"):
      assert_same(
        {n: v for n, v in tree.items() if n.startswith(prefix)},
        {f"{prefix}{n}": of[n] for n in of if n != "classifier"},
      )
  assert any("arrays filled" in row["text"] for row in rows(tmp_path / "run", "event"))


def test_mismatched_weights_create_no_folder(uninterrupted, tmp_path):
  folder, _ = uninterrupted
  mismatched = obsr.get_config("demo")
  mismatched.pretrained.path = str(folder)
  with pytest.raises(UserError, match="seems to have another architecture"):
    run(tmp_path / "run", mismatched)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path, signum):
  timer = threading.Timer(8, os.kill, (os.getpid(), signum))
  timer.start()
  with pytest.raises(Interrupted) as stop:
    run(tmp_path / "run", config(duration="1000000 steps"))
  timer.cancel()
  assert stop.value.signum == signum
  steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
  assert steps[-1] == int(str(stop.value).split("step ")[1].split(";")[0])
