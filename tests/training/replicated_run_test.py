"""Runs of several replicas: each replica equals the same run trained alone."""

import collections
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from fer_jax.apps.report import write_report
from fer_jax.config.parsing import parse
from fer_jax.data import arrays as arrays_lib
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.runtime.interruption import Interrupted
from fer_jax.training import strategy, train
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.strategy import StrategyProbe
from tests.tiny_run import assert_same, config, final_state, rows, run, stop_after, tiny_arrays

pytestmark = pytest.mark.usefixtures("tiny_data")
FOLDS = 3
# Two phases of 10 steps; an evaluation after every fifth step.
CHANGES = {
  "folds.by": "images",
  "folds.count": FOLDS,
  "replicas": 0,
  "duration": "20 steps",
  "evaluate_every": "5 steps",
  "phases.bottleneck.duration": "10 steps",
  "phases.deepening.duration": "10 steps",
  "log_every": "1 steps",
  # Adam would amplify the gradient of weights before a normalisation, which is only rounding error.
  "phases.bottleneck.optimizer.name": "sgd",
  "phases.deepening.optimizer.name": "sgd",
  "phases.bottleneck.optimizer.learning_rate": 0.002,  # rounding errors grow with the learning rate
}
# Strategy and number of devices.
STRATEGIES = {"loop": ("loop", 1), "vmap": ("vmap", 1), "vmap on two": ("vmap", 2), "loop on two": ("loop", 2)}


def make_config(strategy="loop", **changes):
  return config(**CHANGES | {"replica_strategy": strategy} | changes)


def single_config(fold, seed, **changes):
  return config(**CHANGES | {"replicas": 1, "folds.number": fold, "seed": seed} | changes)


def replica_folders(workdir):
  return sorted(path for path in (workdir / "replicas").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
  """Folder and result of each fold trained alone."""
  root = tmp_path_factory.mktemp("singles")
  return [(root / str(fold), run(root / str(fold), single_config(fold, seed=fold))) for fold in range(FOLDS)]


@pytest.fixture(
  scope="module",
  params=[
    "loop",
    "vmap",
    *(pytest.param(strategy, marks=pytest.mark.slow) for strategy in ("vmap on two", "loop on two")),
  ],
)
def replicated(request, tmp_path_factory):
  strategy, devices = STRATEGIES[request.param]
  folder = tmp_path_factory.mktemp("together") / "run"
  return folder, run(folder, make_config(strategy), devices=devices)


class TestEqualsSingleRuns:
  def test_parameters_and_statistics_are_equal(self, replicated, singles):
    for folder, (single, _) in zip(replica_folders(replicated[0]), singles, strict=True):
      for found, expected in zip(final_state(folder), final_state(single), strict=True):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
          np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

  def test_losses_of_all_steps_are_equal(self, replicated, singles):
    for folder, (single, _) in zip(replica_folders(replicated[0]), singles, strict=True):
      found, expected = ([row["loss"] for row in rows(path, "train")] for path in (folder, single))
      assert len(found) == 20
      np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

  def test_validation_and_test_results_are_equal(self, replicated, singles):
    for folder, (_, expected) in zip(replica_folders(replicated[0]), singles, strict=True):
      found = json.loads((folder / "result.json").read_text())
      assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
      for key in ("confusion_matrix", "validation", "fold", "seeds", "steps", "stopped", "parameters"):
        assert found[key] == expected[key]

  def test_configs_are_equal(self, replicated, singles):
    for folder, (single, _) in zip(replica_folders(replicated[0]), singles, strict=True):
      found, expected = (json.loads((path / "config.json").read_text())["config"] for path in (folder, single))
      assert {**found, "replica_strategy": "auto"} == expected


class TestCombinedResult:
  def test_result_combines_the_replicas(self, replicated):
    folder, result = replicated
    each = [json.loads((path / "result.json").read_text()) for path in replica_folders(folder)]
    accuracies = [one["accuracy"] for one in each]
    assert result["accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert result["interval_95"][0] <= result["accuracy"] <= result["interval_95"][1]
    np.testing.assert_array_equal(result["confusion_matrix"], np.sum([one["confusion_matrix"] for one in each], 0))
    assert np.sum(result["confusion_matrix"]) == len(tiny_arrays())  # every image is tested exactly once
    assert result["pooled_accuracy"] == np.trace(result["confusion_matrix"]) / len(tiny_arrays())
    assert [run["fold"] for run in result["runs"]] == [0, 1, 2]
    assert [run["name"] for run in result["runs"]] == ["fold_0", "fold_1", "fold_2"]
    assert result["seeds"] == [0, 1, 2]
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))

  def test_predictions_are_pooled(self, replicated):
    folder, result = replicated
    with np.load(folder / "predictions.npz") as pooled:
      assert sorted(pooled["index"]) == list(range(len(tiny_arrays())))
      right = pooled["probability"].argmax(1) == pooled["label"]
      assert right.mean() == pytest.approx(result["pooled_accuracy"])
      for number, run in enumerate(result["runs"]):
        assert right[pooled["replica"] == number].mean() == pytest.approx(run["accuracy"])
      images = tiny_arrays().image[pooled["index"][pooled["worst"]]]
      np.testing.assert_array_equal(pooled["worst_image"], images)
      assert len(pooled["worst"]) == min((~right).sum(), 48)

  def test_reports_the_strategy(self, replicated):
    folder, result = replicated
    assert any("3 runs" in row["text"] for row in rows(folder, "event"))
    assert result["strategy"]["strategy"] in ("loop", "vmap")


@pytest.mark.parametrize("replicated", ["loop"], indirect=True)  # folds do not depend on the placement
def test_saved_folds_can_be_reused(replicated, singles, tmp_path):
  again = single_config(1, seed=1, **{"folds.by": "file", "folds.file": str(replicated[0] / "splits.json")})
  assert run(tmp_path / "again", again)["confusion_matrix"] == singles[1][1]["confusion_matrix"]


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, monkeypatch, singles, strategy):
  stop_after(monkeypatch, 13)
  with pytest.raises(Interrupted):
    run(tmp_path / "run", make_config(strategy))
  if strategy == "vmap":  # as if the process was killed while saving: one replica lacks the newest checkpoint
    newest = max(replica_folders(tmp_path / "run")[1].glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(newest)
  result = run(tmp_path / "run", make_config(strategy))
  expected = [single[1] for single in singles]
  assert [each["accuracy"] for each in result["runs"]] == [each["accuracy"] for each in expected]
  for folder, (single, _) in zip(replica_folders(tmp_path / "run"), singles, strict=True):
    if strategy == "loop":
      assert_same(final_state(folder), final_state(single))
    steps = [row["step"] for row in rows(folder, "train")]
    assert steps[-1] == 20


def fake_accuracies(monkeypatch):
  """Replaces validation accuracies: those of fold 0 decrease, those of the other folds increase."""
  evaluate = CompiledRun.evaluate
  evaluations_count = collections.Counter()

  def evaluate_fake(self, variables, replicas, split, view):
    found = evaluate(self, variables, replicas, split, view)
    if split == "test":
      return found
    evaluations_count.update(each.fold for each in replicas)
    right = [50 - evaluations_count[each.fold] if each.fold == 0 else evaluations_count[each.fold] for each in replicas]
    confusions = [np.array([[number, 100 - number], [0, 0]]) for number in right]
    return [dataclasses.replace(each, confusion=confusion) for each, confusion in zip(found, confusions, strict=True)]

  monkeypatch.setattr(CompiledRun, "evaluate", evaluate_fake)
  return evaluations_count


def test_one_replica_stops_early_and_the_others_continue(tmp_path, monkeypatch):
  evaluations_count = fake_accuracies(monkeypatch)
  changes = {"phases.bottleneck.patience": 1, "phases.bottleneck.duration": "30 steps", "duration": "40 steps"}
  together = run(tmp_path / "together", make_config("vmap", **changes))
  assert [each["steps"] for each in together["runs"]] == [10 + 10, 30 + 10, 30 + 10]
  assert [each["stopped"] for each in together["runs"]] == ["early stopping", "finished", "finished"]
  # The stopped fold is evaluated again at the end of the phase: the steps of the others must not have changed it.
  evaluations = rows(tmp_path / "together" / "replicas" / "fold_0", "eval")
  stopped, ended = [row["loss"] for row in evaluations if (row["step"], row["split"]) == (10, "validation")]
  assert stopped == pytest.approx(ended, rel=1e-6)
  for fold in (0, 1):
    evaluations_count.clear()
    single = run(tmp_path / str(fold), single_config(fold, fold, **changes))
    folder = tmp_path / "together" / "replicas" / f"fold_{fold}"
    for found, expected in zip(final_state(folder), final_state(tmp_path / str(fold)), strict=True):
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert single["steps"] == together["runs"][fold]["steps"]
    assert single["validation"]["step"] == together["runs"][fold]["best_step"]


def test_a_stopped_replica_stays_stopped_after_resuming(tmp_path, monkeypatch):
  fake_accuracies(monkeypatch)
  changes = {"phases.bottleneck.patience": 1, "phases.bottleneck.duration": "30 steps", "duration": "40 steps"}
  stop_after(monkeypatch, 18)  # fold 0 has stopped at step 10
  with pytest.raises(Interrupted):
    run(tmp_path / "run", make_config("vmap", **changes))
  result = run(tmp_path / "run", make_config("vmap", **changes))
  assert [each["steps"] for each in result["runs"]] == [20, 40, 40]
  assert [each["stopped"] for each in result["runs"]] == ["early stopping", "finished", "finished"]


def test_replicas_of_predefined_splits_differ_in_their_seeds(tmp_path):
  changes = {"folds.by": "", "replicas": 2, "seed": 5}
  result = run(tmp_path / "run", make_config("loop", **changes))
  assert [path.name for path in replica_folders(tmp_path / "run")] == ["seed_5", "seed_6"]
  single = run(tmp_path / "single", config(**CHANGES | {"folds.by": "", "replicas": 1, "seed": 6}))
  assert (
    single["confusion_matrix"]
    == json.loads((tmp_path / "run/replicas/seed_6/result.json").read_text())["confusion_matrix"]
  )
  assert "folds" not in result
  assert not (tmp_path / "run" / "splits.json").exists()


@pytest.mark.slow
def test_host_residence_equals_device_residence(tmp_path, singles):
  result = run(tmp_path / "run", make_config("vmap", **{"data.residence": "host"}))
  assert [each["accuracy"] for each in result["runs"]] == [single[1]["accuracy"] for single in singles]


def test_reports_and_drops_train_duplicates(tmp_path, monkeypatch):
  def with_train_duplicates(*args, **kwargs):
    arrays = tiny_arrays()
    # The last ten images are in the test split.
    arrays.image[:10], arrays.label[:10] = arrays.image[-10:], arrays.label[-10:]
    return arrays

  monkeypatch.setattr(arrays_lib, "load", with_train_duplicates)
  short = {"folds.by": "", "replicas": 2, "duration": "2 steps"}
  kept = run(tmp_path / "kept", make_config(**short))
  assert kept["deduplicated"]["seen"] == 20  # ten of each replica
  assert kept["runs"][0]["deduplicated"]["images"] == 11
  dropped = run(tmp_path / "dropped", make_config(**short, **{"data.drop": "train_duplicates"}))
  assert dropped["deduplicated"] == {"accuracy": dropped["accuracy"], "images": 42, "seen": 0}
  assert any("10 of the 60 training examples are left out" in note for note in dropped["notes"])


@pytest.mark.slow
def test_reports_that_all_test_images_have_copies_in_training(tmp_path):
  short = {"duration": "2 steps", "replicas": 2, "views": "flip"}
  expanded = make_config(**short)
  expanded.expansion = {"protocol": "paper", "factor": 20}
  result = run(tmp_path / "run", expanded)
  first = result["runs"][0]
  assert first["images"] == 101 * 20 // FOLDS
  assert first["deduplicated"] == {"accuracy": None, "images": 0, "seen": first["images"]}
  assert result["deduplicated"] == {
    "accuracy": None,
    "images": 0,
    "seen": sum(each["images"] for each in result["runs"]),
  }
  assert result["views"]["flip"]["deduplicated"] is None
  assert sum("examples became 2,020 (a 34 x 20 = 680" in note for note in result["notes"]) == 1
  assert json.loads((tmp_path / "run" / "splits.json").read_text())["examples"] == 2020
  page = write_report(tmp_path / "run").read_text()
  assert "test images also appear in training, themselves or as copies" in page
  assert "not a measure of new faces" in page
  fold_page = write_report(tmp_path / "run/replicas/fold_0").read_text()
  assert "all 673 test images also appear in training, themselves or as copies" in fold_page


@pytest.mark.parametrize(("wanted", "num_devices"), [(1, 1), (3, 3), (0, 2)])
def test_devices_are_created_before_the_data_is_loaded(tmp_path, monkeypatch, wanted, num_devices):
  requested = []
  monkeypatch.setattr(train, "all_devices", lambda replicas: requested.append(replicas) or jax.devices()[:1])
  monkeypatch.setattr(train.provenance, "cores", lambda: 2)

  def plan(settings):
    assert requested == [num_devices]
    raise UserError("planned")

  monkeypatch.setattr(train, "plan_replicas", plan)
  with pytest.raises(UserError, match="planned"):
    train.train_and_evaluate(make_config(replicas=wanted), tmp_path / "run")


def test_a_single_remaining_fold_uses_one_device(tmp_path, monkeypatch):
  monkeypatch.setattr(train, "all_devices", lambda replicas: jax.devices()[:2])
  used_devices = []
  monkeypatch.setattr(train, "_train_alone", lambda run, watch, signals: used_devices.append(run.devices))
  changes = {"folds.number": FOLDS - 1, "batch_size": 11}  # does not split over two devices
  train.train_and_evaluate(make_config(**changes), tmp_path / "run")
  assert used_devices == [tuple(jax.devices()[:1])]


def test_auto_measures_both_strategies(tmp_path, capsys):
  run(tmp_path / "run", make_config("auto", duration="2 steps"))
  assert "with loop and" in capsys.readouterr().out
  choice = json.loads((tmp_path / "run" / "replicas" / "choice.json").read_text())
  assert choice["strategy"] in ("loop", "vmap")


def test_replicas_that_do_not_fit_are_trained_in_waves(tmp_path, monkeypatch, singles):
  needed = []
  memory = StrategyProbe.memory
  monkeypatch.setattr(StrategyProbe, "memory", lambda self: needed.append(memory(self)) or needed[-1])
  monkeypatch.setattr(strategy, "free_memory", lambda device: 0.8 * needed[0])
  result = run(tmp_path / "run", make_config("vmap"))
  assert result["strategy"]["together"] == 2
  assert "2 at a time" in result["strategy"]["reason"]
  assert "GiB free" in result["strategy"]["reason"]
  assert [each["accuracy"] for each in result["runs"]] == [single[1]["accuracy"] for single in singles]


def test_reports_a_diverged_replica(tmp_path):
  with pytest.raises(Failure, match=r"^fold 0: training diverged"):
    run(tmp_path / "run", make_config(**{"phases.bottleneck.optimizer.learning_rate": float("nan")}))


class TestRejectedConfigs:
  def test_rejects_more_replicas_than_folds(self, tmp_path):
    with pytest.raises(UserError, match=r"config\.folds\.number=1 with config\.replicas=3: there are 3 folds, 0 to 2"):
      run(tmp_path / "run", make_config(**{"replicas": 3, "folds.number": 1}))
    assert not (tmp_path / "run").exists()

  @pytest.mark.parametrize(("split", "absent"), [("train", "test"), ("test", "train")])
  def test_rejects_datasets_without_a_training_or_test_split(self, tmp_path, monkeypatch, split, absent):
    def with_one_split(*args, **kwargs):
      arrays = tiny_arrays()
      arrays.split[:] = split
      return arrays

    monkeypatch.setattr(arrays_lib, "load", with_one_split)
    with pytest.raises(UserError, match=rf"no {absent} split: .*--config\.folds\.by=subjects"):
      run(tmp_path / "run", config())
    assert not (tmp_path / "run").exists()

  @pytest.mark.parametrize("changes", [{"replicas": -1}, {"replicas": 0}, {"seed": -1}, {"seed": 2**31 - 1}])
  def test_rejects_numbers_out_of_range(self, changes):
    with pytest.raises(UserError, match=f"config.{next(iter(changes))}="):
      parse(config(**changes))
