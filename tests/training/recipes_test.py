"""Runs with a full recipe: moving averages, plateau schedule, mixed images, test-time augmentation, resuming."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.apps.ensemble import write_ensemble
from fer_jax.config.parsing import parse
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.interruption import Interrupted
from fer_jax.training import loop
from fer_jax.training.phases import plan_phases
from tests.tiny_run import assert_same, config, final_state, rows, run, stop_after

pytestmark = pytest.mark.usefixtures("tiny_data")
PHASE = "phases.deepening."
RECIPE = {
  "augmentation.flip": 0.5,
  "augmentation.rotation": (0.0, 10.0),
  "augmentation.erase": 0.5,
  "mixing.mixup": 0.5,
  "mixing.cutmix": 1.0,
  "views": "ten_crop",
  "view_margin": 1,
  "phases.bottleneck.average": 0.5,
  "evaluate_every": "2 steps",
  "log_every": "1 steps",
  PHASE + "average": 0.8,
  PHASE + "objective.center_weight": 0.01,
  PHASE + "watch": "loss",
  PHASE + "optimizer.schedule": "plateau",
  PHASE + "optimizer.warmup": 0.0,
  PHASE + "optimizer.decay_factor": 0.5,
  PHASE + "optimizer.decay_patience": 1,
  PHASE + "optimizer.learning_rate": 1e-9,  # practically no training: only the moving average changes the loss
}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
  """Returns the folder and the result of an uninterrupted run."""
  folder = tmp_path_factory.mktemp("recipe")
  return folder, run(folder, config(**RECIPE))


def test_centres_are_saved_but_not_read_as_pretrained_weights(complete):
  folder, _ = complete
  params, stats = final_state(folder)
  centers = stats["center_loss"]["centers"]
  assert centers.shape[0] == 3
  assert np.abs(centers).max() > 0
  _, stats, _ = pretrained.run_folder.read(folder)
  assert set(stats) == set(params)


def test_accuracy_of_each_protocol_follows_from_its_probabilities(complete):
  folder, result = complete
  assert list(result["views"]) == ["single", "flip", "ten_crop"]
  with np.load(folder / "predictions.npz") as saved:
    for protocol, figures in result["views"].items():
      for split, label in (("test", saved["label"]), ("validation", saved["validation_label"])):
        probability = saved[f"{split}_{protocol}"]
        np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
        assert figures[split] == pytest.approx(np.mean(probability.argmax(1) == label))
      likelihood = saved[f"test_{protocol}"][np.arange(len(saved["label"])), saved["label"]]
      assert figures["loss"] == pytest.approx(-np.log(likelihood).mean(), rel=1e-5)
    np.testing.assert_array_equal(saved["test_single"], saved["probability"])
    assert np.abs(saved["test_flip"] - saved["test_single"]).max() > 1e-6
    assert np.abs(saved["test_ten_crop"] - saved["test_flip"]).max() > 1e-6
    assert not saved["seen"].any()
  assert result["accuracy"] == result["views"]["single"]["test"]
  assert result["validation"]["accuracy"] == result["views"]["single"]["validation"]


def test_samples_are_images(complete):
  with np.load(complete[0] / "predictions.npz") as saved:
    assert saved["sample_image"].dtype == np.uint8
    assert saved["sample_image"].std() > 10


def test_plateau_lowers_the_logged_learning_rate(complete):
  folder, _ = complete
  losses = [row["loss"] for row in rows(folder, "eval") if row["phase"] == "deepening" and row["split"] == "validation"]
  rates = [row["learning_rate"] for row in rows(folder, "train") if row["phase"] == "deepening"]
  lowered = sum(loss >= min(losses[:i]) for i, loss in enumerate(losses[:-1]) if i)
  assert rates[0] == pytest.approx(1e-9)
  assert rates[-1] == pytest.approx(1e-9 * 0.5**lowered)


@pytest.mark.slow
def test_stopped_and_resumed_run_gives_bit_identical_results(complete, tmp_path, monkeypatch):
  stop_after(monkeypatch, 17)
  with pytest.raises(Interrupted):
    run(tmp_path / "run", config(**RECIPE))
  run(tmp_path / "run", config(**RECIPE))
  assert_same(final_state(tmp_path / "run"), final_state(complete[0]))
  results = [json.loads((folder / "result.json").read_text()) for folder in (complete[0], tmp_path / "run")]
  assert results[0]["views"] == results[1]["views"]


def test_next_phase_starts_from_the_averaged_parameters(tmp_path, monkeypatch):
  states = []
  next_phase = loop.TrainingLoop._next_phase

  def recorded(self):
    states.append(self._states()[0])
    next_phase(self)
    states.append(self._states()[0])

  monkeypatch.setattr(loop.TrainingLoop, "_next_phase", recorded)
  run(tmp_path / "run", config(**{"phases.bottleneck.average": 0.9}))
  before, after = states[:2]
  averaged = set(before.average[0])
  assert averaged and averaged <= set(before.params)
  assert_same((after.params, after.stats), before.variables)
  change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
  assert max(jax.tree.leaves(change)) > 1e-4
  assert after.average == ()


def test_ensemble_of_one_run_equals_the_run(complete, tmp_path):
  folder, result = complete
  record = write_ensemble([folder], tmp_path / "out.json", "ten_crop").to_json()
  assert record["accuracy"] == result["views"]["ten_crop"]["test"]
  assert record["views"] == {protocol: pytest.approx(figures) for protocol, figures in result["views"].items()}


def test_arrays_of_a_state_do_not_share_buffers():
  settings = parse(config(**RECIPE))
  network = settings.model.build(3, jnp.float32, None)
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
  phase, *_ = plan_phases(settings, network, None, 60)
  buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(phase.initial_state(0, params, stats))]
  assert len(set(buffers)) == len(buffers)


def test_result_of_several_replicas_has_the_means_of_their_metrics(tmp_path):
  changes = {"duration": "4 steps", "evaluate_every": "2 steps", "views": "flip", PHASE + "average": 0.5}
  result = run(tmp_path / "run", config(replicas=2, replica_strategy="loop", **changes), devices=2)
  for protocol in ("single", "flip"):
    by_run = [each["views"][protocol] for each in result["runs"]]
    for key in ("validation", "test", "deduplicated", "loss"):
      assert result["views"][protocol][key] == pytest.approx(np.mean([figures[key] for figures in by_run]))
    assert result["views"][protocol]["std"] == pytest.approx(np.std([f["test"] for f in by_run], ddof=1))
  assert result["runs"][0]["loss"] != result["runs"][1]["loss"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"views": "five_crop"}, "config.views='five_crop': expected one of single, flip, ten_crop"),
    ({"view_margin": -1}, "config.view_margin=-1: expected pixels, 0 or more"),
    ({PHASE + "watch": "f1"}, "config.phases.deepening: watch='f1': expected one of accuracy, loss"),
    ({PHASE + "average": 1.0}, "config.phases.deepening: average=1.0: expected a decay, 0 <= average < 1"),
    ({PHASE + "patience": -1}, "config.phases.deepening: patience=-1: expected evaluations, 0 for any number"),
    (
      {PHASE + "objective.class_weights": (1.0, 2.0)},
      "config.phases.deepening.objective: objective.class_weights: 2 of them, expected 3 numbers",
    ),
    ({"mixing.mixup": -1.0}, "config.mixing: mixing.mixup=-1.0: expected the parameter of a Beta"),
  ],
)
def test_rejects_invalid_values(tmp_path, changes, message):
  with pytest.raises(UserError) as raised:
    run(tmp_path / "run", config(**changes))
  assert str(raised.value).startswith(message)
  assert not (tmp_path / "run").exists()
