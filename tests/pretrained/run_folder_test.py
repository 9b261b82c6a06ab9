"""Pretrained weights from the folder of a finished run: mapping to our networks, and error messages."""

import hashlib
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.models.resnet import ResNet
from fer_jax.runtime import typed_json
from fer_jax.runtime.errors import UserError
from fer_jax.training.checkpoint import Checkpoints, Progress
from fer_jax.training.run_result import Validation
from fer_jax.training.step import TrainState
from tests.fake_results import run_result
from tests.pretrained.transfer_test import FILE, assert_rejected, assert_same, load, variables


def write_run(folder, params, stats, step=3, steps=5):
  """Writes the folder of a run with its best parameters at `step` and twice these parameters at `steps`, its end."""
  iterator = iter(grain.MapDataset.range(3).to_iter_dataset())
  last = jax.tree.map(lambda x: 2 * x, params)
  with Checkpoints(folder / "checkpoints") as checkpoints:
    for at, at_params in ((step, params), (steps, last)):
      if at >= 0:
        state = TrainState(jnp.asarray(at, jnp.int32), at_params, stats, ())
        checkpoints.save(state, iterator, Progress(step=at), 0.5 if at == step else 0.25)
  typed_json.write(folder / "result.json", run_result(validation=Validation(0.5, step), steps=steps))
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the folder of a run whose best parameters are those of FILE."""
  params, stats, _ = load(FILE)
  return write_run(tmp_path_factory.mktemp("run"), params, stats)


def test_maps_names_unchanged(run):
  loaded = load(run)
  assert_same(loaded, load(FILE))
  sha256 = hashlib.sha256((run / "result.json").read_bytes()).hexdigest()
  assert loaded.report == pretrained.Report(str(run), sha256, 102, 102, (), 0, False)
  assert str(loaded.report).endswith("; not used: none")


def test_omits_the_classifier_and_sums_colour_channels(run):
  params, stats, report = load(run, channels=1, num_classes=5, keep_classifier=False)
  expected = load(FILE, channels=1, keep_classifier=False)
  assert_same(pretrained.PretrainedLayers(params, stats, report), expected)
  assert report.unused == ("params/classifier/linear/bias", "params/classifier/linear/kernel")
  assert report.summed


def test_fills_two_extractors_from_their_own_layers_if_they_exist(tmp_path):
  kernel = np.arange(4, dtype=np.float32).reshape(2, 2)
  layer = lambda factor: {"linear": {"kernel": factor * kernel}}  # noqa: E731
  target = {name: layer(0) for name in ("a_unit", "b_unit", "classifier")}
  for name, run_params, factors in (
    ("plain", {"unit": layer(1)}, (1, 1)),
    ("both", {"a_unit": layer(2), "b_unit": layer(3)}, (2, 3)),
  ):
    folder = write_run(tmp_path / name, run_params, {key: {} for key in run_params})
    filled = pretrained.load(folder, target, {}, extractors=("a_", "b_"), classifier="classifier")
    assert filled.stats == {"a_unit": {}, "b_unit": {}}
    for layer_name, factor in zip(("a_unit", "b_unit"), factors, strict=True):
      np.testing.assert_array_equal(filled.params[layer_name]["linear"]["kernel"], factor * kernel)


def test_run_without_validation_gives_its_last_step(tmp_path):
  params = {name: {"kernel": np.ones((2, 2), np.float32)} for name in ("unit", "classifier")}
  folder = write_run(tmp_path, params, {name: {} for name in params}, step=-1)
  loaded = pretrained.load(folder, params, {}, extractors=("",), classifier="classifier")
  np.testing.assert_array_equal(loaded.params["unit"]["kernel"], 2 * params["unit"]["kernel"])


def test_different_architecture(run):
  pattern = r"arrays are missing \(params/layer1_2/conv1/conv/kernel for layer1_2/.*expected a trained network of"
  assert_rejected(pattern, run, ResNet(34, "imagenet", width=4))
  assert_rejected(
    "params/.* is .*4, but .* needs .*8; compare config.model.width", run, ResNet(18, "imagenet", width=8)
  )
  params, stats = variables()
  fewer = {name: layer for name, layer in params.items() if name != "layer1_1"}
  with pytest.raises(UserError, match=r"no counterpart of 10 of its arrays \(params/layer1_1/conv1/conv/kernel, "):
    pretrained.load(run, fewer, stats, extractors=("",), classifier="classifier")


def test_unfinished_run(tmp_path, run):
  (tmp_path / "run").mkdir()
  assert_rejected("has no result.json, so no run has finished there", tmp_path / "run")
  assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"validation": {"step": "x"}, "steps": 3}', '{"steps": 3}'])
def test_invalid_result_file(tmp_path, content):
  (tmp_path / "result.json").write_text(content)
  with pytest.raises(UserError, match="result.json: .*; finish the run again"):
    load(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_missing_checkpoint(tmp_path, run):
  shutil.copy(run / "result.json", tmp_path)
  with pytest.raises(UserError, match="has no checkpoint of step 3, which result.json names; copy the whole folder"):
    load(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


# After the first failed read of an array, orbax closes its event loop, and later reads fail with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoint(tmp_path, run):
  folder = shutil.copytree(run, tmp_path / "run")
  for path in (folder / "checkpoints" / "3" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(UserError, match="checkpoints/3: cannot be read .*; copy the folder again") as caught:
    load(folder)
  assert "\n" not in str(caught.value)
