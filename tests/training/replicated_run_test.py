"""Folds and seeds as one run: each equals the same training alone, whatever goes side by side."""

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
# By two phases of 10 steps; a fold is evaluated after every fifth.
CHANGES = {
  "folds.by": "images",
  "folds.count": FOLDS,
  "replicas": 0,
  "duration": "20 steps",
  "evaluate_every": "5 steps",
  "phases.bottleneck.duration": "10 steps",
  "phases.deepening.duration": "10 steps",
  "log_every": "1 steps",
  # Adam makes steps of the rounding errors that are the gradient of a weight before a normalisation.
  "phases.bottleneck.optimizer.name": "sgd",
  "phases.deepening.optimizer.name": "sgd",
  "phases.bottleneck.optimizer.learning_rate": 0.002,  # rounding errors grow with it
}
# strategy and devices: in turn; side by side; two of three side by side on two devices; two at once, then one.
WAYS = {"loop": ("loop", 1), "vmap": ("vmap", 1), "vmap on two": ("vmap", 2), "loop on two": ("loop", 2)}


def several(strategy="loop", **changes):
  return config(**CHANGES | {"replica_strategy": strategy} | changes)


def alone(fold, seed, **changes):
  return config(**CHANGES | {"replicas": 1, "folds.number": fold, "seed": seed} | changes)


def replica_folders(workdir):
  return sorted(path for path in (workdir / "replicas").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
  """The folder of each fold trained by itself, and its result."""
  root = tmp_path_factory.mktemp("singles")
  return [(root / str(fold), run(root / str(fold), alone(fold, seed=fold))) for fold in range(FOLDS)]


@pytest.fixture(
  scope="module",
  params=["loop", "vmap", *(pytest.param(way, marks=pytest.mark.slow) for way in ("vmap on two", "loop on two"))],
)
def whole(request, tmp_path_factory):
  strategy, devices = WAYS[request.param]
  folder = tmp_path_factory.mktemp("together") / "run"
  return folder, run(folder, several(strategy), devices=devices)


class TestEqualsTrainingAlone:
  def test_parameters_and_statistics(self, whole, singles):
    for folder, (single, _) in zip(replica_folders(whole[0]), singles, strict=True):
      for found, expected in zip(final_state(folder), final_state(single), strict=True):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
          np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

  def test_losses_step_by_step(self, whole, singles):
    for folder, (single, _) in zip(replica_folders(whole[0]), singles, strict=True):
      found, expected = ([row["loss"] for row in rows(path, "train")] for path in (folder, single))
      assert len(found) == 20
      np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

  def test_selection_and_test(self, whole, singles):
    for folder, (_, expected) in zip(replica_folders(whole[0]), singles, strict=True):
      found = json.loads((folder / "result.json").read_text())
      assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
      for key in ("confusion_matrix", "validation", "fold", "seeds", "steps", "stopped", "parameters"):
        assert found[key] == expected[key]

  def test_the_folder_is_that_of_the_training_alone(self, whole, singles):
    for folder, (single, _) in zip(replica_folders(whole[0]), singles, strict=True):
      found, expected = (json.loads((path / "config.json").read_text())["config"] for path in (folder, single))
      assert {**found, "replica_strategy": "auto"} == expected


class TestTogether:
  def test_the_result_sums_up(self, whole):
    folder, result = whole
    each = [json.loads((path / "result.json").read_text()) for path in replica_folders(folder)]
    accuracies = [one["accuracy"] for one in each]
    assert result["accuracy"] == result["mean"] == pytest.approx(np.mean(accuracies))
    assert result["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert result["interval_95"][0] <= result["mean"] <= result["interval_95"][1]
    np.testing.assert_array_equal(result["confusion_matrix"], np.sum([one["confusion_matrix"] for one in each], 0))
    assert np.sum(result["confusion_matrix"]) == len(tiny_arrays())  # every image is tested once
    assert result["pooled_accuracy"] == np.trace(result["confusion_matrix"]) / len(tiny_arrays())
    assert [run["fold"] for run in result["runs"]] == [0, 1, 2]
    assert [run["name"] for run in result["runs"]] == ["fold_0", "fold_1", "fold_2"]
    assert result["seeds"] == [0, 1, 2]
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))

  def test_predictions_are_pooled(self, whole):
    folder, result = whole
    with np.load(folder / "predictions.npz") as pooled:
      assert sorted(pooled["index"]) == list(range(len(tiny_arrays())))
      right = pooled["probability"].argmax(1) == pooled["label"]
      assert right.mean() == pytest.approx(result["pooled_accuracy"])
      for number, run in enumerate(result["runs"]):
        assert right[pooled["replica"] == number].mean() == pytest.approx(run["accuracy"])
      images = tiny_arrays().image[pooled["index"][pooled["worst"]]]
      np.testing.assert_array_equal(pooled["worst_image"], images)
      assert len(pooled["worst"]) == min((~right).sum(), 48)

  def test_what_was_chosen_is_said(self, whole):
    folder, result = whole
    assert any("3 runs" in row["text"] for row in rows(folder, "event"))
    assert result["strategy"]["strategy"] in ("loop", "vmap")


@pytest.mark.parametrize("whole", ["loop"], indirect=True)  # a division knows of no placement
def test_the_division_is_saved_and_can_be_used_again(whole, singles, tmp_path):
  again = alone(1, seed=1, **{"folds.by": "file", "folds.file": str(whole[0] / "splits.json")})
  assert run(tmp_path / "again", again)["confusion_matrix"] == singles[1][1]["confusion_matrix"]


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch, singles, strategy):
  stop_after(monkeypatch, 13)
  with pytest.raises(Interrupted):
    run(tmp_path / "run", several(strategy))
  if strategy == "vmap":  # as if the process had been killed while it saved: one training lacks the newest
    newest = max(replica_folders(tmp_path / "run")[1].glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(newest)
  result = run(tmp_path / "run", several(strategy))
  expected = [single[1] for single in singles]
  assert [each["accuracy"] for each in result["runs"]] == [each["accuracy"] for each in expected]
  for folder, (single, _) in zip(replica_folders(tmp_path / "run"), singles, strict=True):
    if strategy == "loop":
      assert_same(final_state(folder), final_state(single))
    steps = [row["step"] for row in rows(folder, "train")]
    assert steps[-1] == 20


def judge_by_hand(monkeypatch):
  """Makes the validation accuracy of fold 0 fall from evaluation to evaluation, and that of the others rise."""
  evaluate = CompiledRun.evaluate
  seen = collections.Counter()

  def judged(self, variables, those, split, view):
    found = evaluate(self, variables, those, split, view)
    if split == "test":
      return found
    seen.update(each.fold for each in those)
    right = [50 - seen[each.fold] if each.fold == 0 else seen[each.fold] for each in those]
    confusions = [np.array([[number, 100 - number], [0, 0]]) for number in right]
    return [dataclasses.replace(each, confusion=of) for each, of in zip(found, confusions, strict=True)]

  monkeypatch.setattr(CompiledRun, "evaluate", judged)
  return seen


def test_one_stops_early_and_the_others_go_on(tmp_path, monkeypatch):
  seen = judge_by_hand(monkeypatch)
  changes = {"phases.bottleneck.patience": 1, "phases.bottleneck.duration": "30 steps", "duration": "40 steps"}
  together = run(tmp_path / "together", several("vmap", **changes))
  assert [each["steps"] for each in together["runs"]] == [10 + 10, 30 + 10, 30 + 10]
  assert [each["stopped"] for each in together["runs"]] == ["early stopping", "finished", "finished"]
  # It is evaluated as it stops and again as the phase ends, and must be the same: the others' steps are not its own.
  evaluations = rows(tmp_path / "together" / "replicas" / "fold_0", "eval")
  stopped, ended = [row["loss"] for row in evaluations if (row["step"], row["split"]) == (10, "validation")]
  assert stopped == pytest.approx(ended, rel=1e-6)
  for fold in (0, 1):
    seen.clear()
    single = run(tmp_path / str(fold), alone(fold, fold, **changes))
    folder = tmp_path / "together" / "replicas" / f"fold_{fold}"
    for found, expected in zip(final_state(folder), final_state(tmp_path / str(fold)), strict=True):
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert single["steps"] == together["runs"][fold]["steps"]
    assert single["validation"]["step"] == together["runs"][fold]["best_step"]


def test_one_that_waits_still_waits_after_a_stop(tmp_path, monkeypatch):
  judge_by_hand(monkeypatch)
  changes = {"phases.bottleneck.patience": 1, "phases.bottleneck.duration": "30 steps", "duration": "40 steps"}
  stop_after(monkeypatch, 18)  # fold 0 has stopped at step 10
  with pytest.raises(Interrupted):
    run(tmp_path / "run", several("vmap", **changes))
  result = run(tmp_path / "run", several("vmap", **changes))
  assert [each["steps"] for each in result["runs"]] == [20, 40, 40]
  assert [each["stopped"] for each in result["runs"]] == ["early stopping", "finished", "finished"]


def test_seeds_of_the_dataset_s_own_splits(tmp_path):
  changes = {"folds.by": "", "replicas": 2, "seed": 5}
  result = run(tmp_path / "run", several("loop", **changes))
  assert [path.name for path in replica_folders(tmp_path / "run")] == ["seed_5", "seed_6"]
  single = run(tmp_path / "single", config(**CHANGES | {"folds.by": "", "replicas": 1, "seed": 6}))
  assert (
    single["confusion_matrix"]
    == json.loads((tmp_path / "run/replicas/seed_6/result.json").read_text())["confusion_matrix"]
  )
  assert result["folds"] is None
  assert not (tmp_path / "run" / "splits.json").exists()


@pytest.mark.slow
def test_rows_on_the_host_train_as_rows_on_the_device_do(tmp_path, singles):
  result = run(tmp_path / "run", several("vmap", **{"data.residence": "host"}))
  assert [each["accuracy"] for each in result["runs"]] == [single[1]["accuracy"] for single in singles]


def test_what_stands_in_training_is_told_and_can_be_dropped(tmp_path, monkeypatch):
  def doubled(*args, **kwargs):
    arrays = tiny_arrays()
    arrays.image[:10], arrays.label[:10] = arrays.image[-10:], arrays.label[-10:]  # of the test split
    return arrays

  monkeypatch.setattr(arrays_lib, "load", doubled)
  short = {"folds.by": "", "replicas": 2, "duration": "2 steps"}
  kept = run(tmp_path / "kept", several(**short))
  assert kept["deduplicated"]["seen"] == 20  # ten of each training
  assert kept["runs"][0]["deduplicated"]["images"] == 11
  dropped = run(tmp_path / "dropped", several(**short, **{"data.drop": "train_duplicates"}))
  assert dropped["deduplicated"] == {"accuracy": dropped["accuracy"], "images": 42, "seen": 0}
  assert any("10 of the 60 training examples are left out" in note for note in dropped["notes"])


@pytest.mark.slow
def test_copies_of_every_test_picture_are_told_and_no_accuracy_is_left_without_them(tmp_path):
  short = {"duration": "2 steps", "replicas": 2, "views": "flip"}
  expanded = several(**short)
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
  of_fold = write_report(tmp_path / "run/replicas/fold_0").read_text()
  assert "all 673 test images also appear in training, themselves or as copies" in of_fold


@pytest.mark.parametrize(("wanted", "parted"), [(1, 1), (3, 3), (0, 2)])
def test_cores_become_devices_before_the_data_may_touch_one(tmp_path, monkeypatch, wanted, parted):
  asked = []
  monkeypatch.setattr(train, "all_devices", lambda trainings: asked.append(trainings) or jax.devices()[:1])
  monkeypatch.setattr(train.provenance, "cores", lambda: 2)

  def plan(settings):
    assert asked == [parted]
    raise UserError("planned")

  monkeypatch.setattr(train, "plan_replicas", plan)
  with pytest.raises(UserError, match="planned"):
    train.train_and_evaluate(several(replicas=wanted), tmp_path / "run")


def test_the_last_fold_alone_keeps_the_cores_together(tmp_path, monkeypatch):
  monkeypatch.setattr(train, "all_devices", lambda trainings: jax.devices()[:2])
  seen = []
  monkeypatch.setattr(train, "_train_alone", lambda run, watch, signals: seen.append(run.devices))
  changes = {"folds.number": FOLDS - 1, "batch_size": 11}  # which two devices could not share
  train.train_and_evaluate(several(**changes), tmp_path / "run")
  assert seen == [tuple(jax.devices()[:1])]


def test_auto_measures_both(tmp_path, capsys):
  run(tmp_path / "run", several("auto", duration="2 steps"))
  assert "with loop and" in capsys.readouterr().out
  choice = json.loads((tmp_path / "run" / "replicas" / "choice.json").read_text())
  assert choice["strategy"] in ("loop", "vmap")


def test_what_does_not_fit_is_trained_a_few_at_a_time(tmp_path, monkeypatch, singles):
  needed = []
  memory = StrategyProbe.memory
  monkeypatch.setattr(StrategyProbe, "memory", lambda self: needed.append(memory(self)) or needed[-1])
  monkeypatch.setattr(strategy, "free_memory", lambda device: 0.8 * needed[0])
  result = run(tmp_path / "run", several("vmap"))
  assert result["strategy"]["together"] == 2
  assert "2 at a time" in result["strategy"]["reason"]
  assert "GiB free" in result["strategy"]["reason"]
  assert [each["accuracy"] for each in result["runs"]] == [single[1]["accuracy"] for single in singles]


def test_a_training_that_diverges_is_named(tmp_path):
  with pytest.raises(Failure, match=r"^fold 0: training diverged"):
    run(tmp_path / "run", several(**{"phases.bottleneck.optimizer.learning_rate": float("nan")}))


class TestMistakes:
  def test_more_replicas_than_folds(self, tmp_path):
    with pytest.raises(UserError, match=r"config\.folds\.number=1 with config\.replicas=3: there are 3 folds, 0 to 2"):
      run(tmp_path / "run", several(**{"replicas": 3, "folds.number": 1}))
    assert not (tmp_path / "run").exists()

  def test_a_dataset_without_a_test_split(self, tmp_path, monkeypatch):
    def untested(*args, **kwargs):
      arrays = tiny_arrays()
      arrays.split[:] = "train"
      return arrays

    monkeypatch.setattr(arrays_lib, "load", untested)
    with pytest.raises(UserError, match=r"no test split: .*--config\.folds\.by=subjects"):
      run(tmp_path / "run", config())

  @pytest.mark.parametrize("changes", [{"replicas": -1}, {"replicas": 0}, {"seed": -1}, {"seed": 2**31 - 1}])
  def test_numbers_out_of_range(self, changes):
    with pytest.raises(UserError, match=f"config.{next(iter(changes))}="):
      parse(config(**changes))
