"""Pretrained weights in our networks: where each array goes, what is left out, and what is refused."""

import functools
import hashlib
import json
import re
import shutil
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.models.resnet import ResNet
from fer_jax.pretrained import weights_file
from fer_jax.runtime.errors import UserError
from fer_jax.training.checkpoint import Checkpoints, Progress
from fer_jax.training.step import TrainState

GOLDEN = Path(__file__).parent.parent / "golden"
FILE = GOLDEN / "resnet18_width4.safetensors"
LOGITS = np.load(GOLDEN / "resnet18_width4_logits.npz")
SMALL = ResNet(18, "imagenet", width=4)


@functools.cache
def variables(settings=SMALL, channels=3, num_classes=7):
  """Returns the shapes of a network's parameters and statistics."""
  network = settings.build(num_classes, jnp.float32, None)
  return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, channels)))


def load(path, settings=SMALL, channels=3, num_classes=7, **options):
  options = {"extractors": ("",), "classifier": "classifier", "keep_classifier": True} | options
  return pretrained.load(path, *variables(settings, channels, num_classes), **options)


def assert_same(loaded, expected):
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
  jax.tree.map(np.testing.assert_array_equal, loaded.stats, expected.stats)


def assert_refused(pattern, path, *arguments, **options):
  with pytest.raises(UserError, match=pattern) as caught:
    load(path, *arguments, **options)
  assert str(caught.value).startswith(str(path))
  assert str(caught.value).isprintable()


def saved(path, arrays):
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope="module")
def arrays():
  return weights_file.read(FILE)


class TestLogits:
  @pytest.mark.parametrize("file", ["resnet18_width4.pth", "resnet18_width4_legacy.pth", "resnet18_width4.safetensors"])
  @pytest.mark.parametrize(("images", "channels"), [("colour", 3), ("grey", 1)])
  def test_are_those_of_pytorch(self, file, images, channels):
    loaded = load(GOLDEN / file, SMALL, channels)
    network = SMALL.build(7, jnp.float32, None)
    outputs, _ = jax.jit(network.apply)(loaded.params, loaded.stats, LOGITS[images] / np.float32(255))
    np.testing.assert_allclose(outputs.logits, LOGITS[f"{images}_logits"], atol=1e-4, rtol=0)
    assert loaded.report.summed == (images == "grey")

  def test_an_npz_is_as_good(self, tmp_path, arrays):
    assert_same(load(saved(tmp_path / "w.npz", arrays)), load(FILE))


class TestPlaces:
  def test_axes_and_names(self, arrays):
    params, stats, _ = load(FILE)
    kernel = params["layer2_0"]["downsample"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0))
    norm = params["layer3_1"]["conv2"]["norm"]
    np.testing.assert_array_equal(norm["scale"], arrays["layer3.1.bn2.weight"])
    np.testing.assert_array_equal(norm["bias"], arrays["layer3.1.bn2.bias"])
    np.testing.assert_array_equal(stats["stem"]["norm"]["mean"], arrays["bn1.running_mean"])
    np.testing.assert_array_equal(stats["stem"]["norm"]["var"], arrays["bn1.running_var"])
    np.testing.assert_array_equal(params["classifier"]["linear"]["kernel"], arrays["fc.weight"].T)

  def test_the_whole_network_in_its_own_types(self):
    params, stats, _ = load(FILE)
    expected = variables()
    assert jax.tree.structure((params, stats)) == jax.tree.structure(expected)
    for array, shape in zip(jax.tree.leaves((params, stats)), jax.tree.leaves(expected), strict=True):
      assert isinstance(array, np.ndarray)
      assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
      assert array.flags.c_contiguous
      assert array.flags.writeable

  def test_arrays_may_stand_for_shapes(self):
    params, stats = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables())
    loaded = pretrained.load(str(FILE), params, stats, extractors=("",), classifier="classifier", keep_classifier=True)
    assert_same(loaded, load(FILE))
    assert all(not leaf.any() for leaf in jax.tree.leaves((params, stats)))

  def test_the_classifier_is_left_out_unless_it_is_kept(self):
    params, stats, report = load(FILE, num_classes=5, keep_classifier=False)
    assert set(variables()[0]) - set(params) == {"classifier"}
    assert params.keys() == stats.keys()
    assert report.unused == ("fc.bias", "fc.weight")

  def test_casts(self, tmp_path, arrays):
    wide = saved(tmp_path / "w.npz", {key: array.astype(np.float64) for key, array in arrays.items()})
    assert_same(load(wide), load(FILE))
    params, stats = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), variables())
    loaded = pretrained.load(FILE, params, stats, extractors=("",), classifier="classifier")
    kernel = loaded.params["stem"]["conv"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, arrays["conv1.weight"].transpose(2, 3, 1, 0).astype(jnp.bfloat16))

  def test_only_the_first_convolution_is_summed_over_colours(self, arrays):
    params, _, report = load(FILE, channels=1)
    kernel = arrays["conv1.weight"].astype(np.float64).sum(axis=1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(params["stem"]["conv"]["kernel"], kernel, rtol=1e-6)
    assert params["layer1_0"]["conv1"]["conv"]["kernel"].shape == (3, 3, 4, 4)
    assert report.summed
    assert not load(FILE).report.summed

  def test_a_grey_file_needs_no_sum(self, tmp_path, arrays):
    grey = arrays | {"conv1.weight": arrays["conv1.weight"][:, :1]}
    params, _, report = load(saved(tmp_path / "w.npz", grey), channels=1)
    np.testing.assert_array_equal(params["stem"]["conv"]["kernel"], grey["conv1.weight"].transpose(2, 3, 1, 0))
    assert not report.summed

  def test_two_extractors_are_copies(self):
    plain = variables()
    both = [{f"{side}_{k}": v for side in "ab" for k, v in tree.items() if k != "classifier"} for tree in plain]
    both[0] |= {"classifier": {"linear": {"kernel": np.zeros((1024, 7))}}, "pool": {"weight": np.zeros(3)}}
    params, stats, report = pretrained.load(FILE, *both, extractors=("a_", "b_"), classifier="classifier")
    one = load(FILE, keep_classifier=False)
    for tree, expected in ((params, one.params), (stats, one.stats)):
      assert tree.keys() == {f"{side}_{layer}" for side in "ab" for layer in expected}
      for side in "ab":
        jax.tree.map(np.testing.assert_array_equal, {k[2:]: v for k, v in tree.items() if k[0] == side}, expected)
    assert (report.taken, report.filled) == (100, 200)

  def test_names_of_no_layer(self):
    with pytest.raises(ValueError, match="no layer begins with 'c_'"):
      load(FILE, extractors=("", "c_"))
    with pytest.raises(ValueError, match="no layer is named 'head'"):
      load(FILE, classifier="head")


class TestReport:
  def test_says_what_was_done(self):
    report = load(FILE, channels=1, keep_classifier=False).report
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert report == pretrained.Report(str(FILE), sha256, 100, 100, ("fc.bias", "fc.weight"), 20, True)
    assert str(report) == (
      f"100 arrays filled with 100 of {FILE} (sha256 {sha256[:12]}), first convolution summed over its colour "
      "channels; not used: fc.bias, fc.weight and 20 batch counters"
    )

  def test_a_long_list_is_shortened(self, tmp_path, arrays):
    more = {f"head{i}.weight": arrays["fc.bias"] for i in range(5)}
    report = load(saved(tmp_path / "w.npz", arrays | more)).report
    assert report.unused == tuple(more)
    assert str(report).endswith("; not used: head0.weight, head1.weight, head2.weight and 2 more and 20 batch counters")


class TestErrors:
  def test_nothing_there(self, tmp_path):
    assert_refused("no such file", tmp_path / "w.pth")

  def test_a_shallower_file(self):
    pattern = re.escape("80 of 182 arrays are missing (layer1.2.conv1.weight for layer1_2/conv1/conv/kernel, ")
    depth = (
      "another architecture: the file's stages have 2, 2, 2, 2 blocks of 2 convolutions; compare config.model.depth"
    )
    assert_refused(f"{pattern}.* and .* more.*{depth}", FILE, ResNet(34, "imagenet", width=4))

  def test_a_deeper_file(self, tmp_path, arrays):
    more = {key.replace("layer1.1", "layer1.2"): array for key, array in arrays.items() if key.startswith("layer1.1")}
    pattern = r"no counterpart of 10 of its arrays \(layer1.2.bn1.bias, .* and 7 more\).*3, 2, 2, 2 blocks"
    assert_refused(pattern, saved(tmp_path / "w.npz", arrays | more))

  def test_bottlenecks(self):
    assert_refused(
      r"are missing \(layer1.*conv3.*blocks of 2 convolutions; compare config.model.depth",
      FILE,
      ResNet(50, "imagenet", width=4),
    )

  def test_other_names(self, tmp_path, arrays):
    path = saved(tmp_path / "w.npz", {f"backbone.{key}": array for key, array in arrays.items()})
    assert_refused(
      r"102 of 102 arrays are missing .* none of its names \('backbone.bn1.bias', ...\) is one of torchvision's",
      path,
    )

  @pytest.mark.parametrize(
    ("settings", "channels", "pattern"),
    [
      (
        ResNet(18, "small", width=4),
        3,
        "conv1.weight is 4x3x7x7, but stem/conv/kernel needs 4x3x3x3; .*config.model.stem",
      ),
      (
        ResNet(18, "small", width=4),
        1,
        "conv1.weight is 4x3x7x7, but stem/conv/kernel needs 4x1x3x3; .*config.model.stem",
      ),
      (ResNet(18, "imagenet", width=8), 3, "is 4.*, but .* needs 8.*; compare config.model.width"),
      (SMALL, 2, "conv1.weight is 4x3x7x7, but .* needs 4x2x7x7; the network expects images with 2 channels"),
    ],
  )
  def test_other_shapes(self, settings, channels, pattern):
    assert_refused(pattern, FILE, settings, channels)

  def test_other_kernels(self, tmp_path, arrays):
    narrow = arrays | {"layer1.0.conv1.weight": arrays["layer1.0.conv1.weight"][:, :, :1, :1]}
    pattern = "layer1.0.conv1.weight is 4x4x1x1, but layer1_0/conv1/conv/kernel needs 4x4x3x3; .*config.model.depth"
    assert_refused(pattern, saved(tmp_path / "w.npz", narrow))
    flat = arrays | {"layer1.0.conv1.weight": np.float32(3)}
    assert_refused(
      "layer1.0.conv1.weight is a single number, but .*config.model.depth", saved(tmp_path / "w.npz", flat)
    )

  def test_other_numbers_of_axes(self, tmp_path, arrays):
    flat = arrays | {"conv1.weight": np.zeros((7, 7, 3), np.float32)}
    assert_refused("conv1.weight is 7x7x3, but stem/conv/kernel needs 4x3x7x7", saved(tmp_path / "w.npz", flat))

  def test_other_classes(self):
    assert_refused("fc.(weight|bias) is 7.*, but .* needs 8.*; skip the classifier", FILE, num_classes=8)

  def test_layers_that_torchvision_does_not_have(self):
    settings = ResNet(18, "imagenet", squeeze_excite=True, width=4)
    pattern = "no counterpart of layer1_0/squeeze_excite/expand/(bias|kernel); this network can only be filled from"
    assert_refused(pattern, FILE, settings)

  @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
  def test_numbers_that_are_not_finite(self, tmp_path, arrays, value):
    broken = arrays["bn1.weight"].copy()
    broken[1] = value
    assert_refused(
      "bn1.weight has values that are not finite", saved(tmp_path / "w.npz", arrays | {"bn1.weight": broken})
    )

  def test_numbers_too_large_for_the_type(self, tmp_path, arrays):
    large = arrays | {"bn1.weight": np.full(4, 1e300)}
    assert_refused("bn1.weight has values that are not finite in float32", saved(tmp_path / "w.npz", large))

  def test_whole_numbers(self, tmp_path, arrays):
    whole = arrays | {"bn1.weight": np.ones(4, np.int8)}
    assert_refused("bn1.weight has dtype int8; expected a floating-point dtype", saved(tmp_path / "w.npz", whole))


def write_run(folder, params, stats, step=3, steps=5):
  """Writes the folder of a run that did best at `step` and ended at `steps`, where all parameters are doubled."""
  iterator = iter(grain.MapDataset.range(3).to_iter_dataset())
  last = jax.tree.map(lambda x: 2 * x, params)
  with Checkpoints(folder / "checkpoints") as checkpoints:
    for at, saved_params in ((step, params), (steps, last)):
      if at >= 0:
        state = TrainState(jnp.asarray(at, jnp.int32), saved_params, stats, ())
        checkpoints.save(state, iterator, Progress(step=at), 0.5 if at == step else 0.25)
  (folder / "result.json").write_text(json.dumps({"validation": {"accuracy": 0.5, "step": step}, "steps": steps}))
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a run whose best parameters are those of FILE."""
  params, stats, _ = load(FILE)
  return write_run(tmp_path_factory.mktemp("run"), params, stats)


class TestRun:
  def test_maps_by_its_own_names(self, run):
    loaded = load(run)
    assert_same(loaded, load(FILE))
    sha256 = hashlib.sha256((run / "result.json").read_bytes()).hexdigest()
    assert loaded.report == pretrained.Report(str(run), sha256, 102, 102, (), 0, False)
    assert str(loaded.report).endswith("; not used: none")

  def test_leaves_the_classifier_and_sums_colours(self, run):
    params, stats, report = load(run, channels=1, num_classes=5, keep_classifier=False)
    expected = load(FILE, channels=1, keep_classifier=False)
    assert_same(pretrained.PretrainedLayers(params, stats, report), expected)
    assert report.unused == ("params/classifier/linear/bias", "params/classifier/linear/kernel")
    assert report.summed

  def test_fills_two_extractors_each_from_its_own_where_it_has_one(self, tmp_path):
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

  def test_one_that_was_never_validated_gives_its_last_step(self, tmp_path):
    params = {name: {"kernel": np.ones((2, 2), np.float32)} for name in ("unit", "classifier")}
    folder = write_run(tmp_path, params, {name: {} for name in params}, step=-1)
    loaded = pretrained.load(folder, params, {}, extractors=("",), classifier="classifier")
    np.testing.assert_array_equal(loaded.params["unit"]["kernel"], 2 * params["unit"]["kernel"])

  def test_another_architecture(self, run):
    pattern = r"arrays are missing \(params/layer1_2/conv1/conv/kernel for layer1_2/.*expected a trained network of"
    assert_refused(pattern, run, ResNet(34, "imagenet", width=4))
    assert_refused(
      "params/.* is .*4, but .* needs .*8; compare config.model.width", run, ResNet(18, "imagenet", width=8)
    )
    params, stats = variables()
    fewer = {name: layer for name, layer in params.items() if name != "layer1_1"}
    with pytest.raises(UserError, match=r"no counterpart of 10 of its arrays \(params/layer1_1/conv1/conv/kernel, "):
      pretrained.load(run, fewer, stats, extractors=("",), classifier="classifier")

  def test_not_finished(self, tmp_path, run):
    (tmp_path / "run").mkdir()
    assert_refused("has no result.json, so no run has finished there", tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []

  @pytest.mark.parametrize("content", ["", "[]", "{}", '{"validation": {"step": "x"}, "steps": 3}', '{"steps": 3}'])
  def test_another_result(self, tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match="result.json: not the result.json of a run; expected the folder of a finished"):
      load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

  def test_checkpoints_gone(self, tmp_path, run):
    shutil.copy(run / "result.json", tmp_path)
    with pytest.raises(UserError, match="has no checkpoint of step 3, which result.json names; copy the whole folder"):
      load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

  # Reads of arrays that fail after the first has failed find orbax's event loop closed.
  @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
  def test_a_damaged_checkpoint(self, tmp_path, run):
    folder = shutil.copytree(run, tmp_path / "run")
    for path in (folder / "checkpoints" / "3" / "state").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="checkpoints/3: cannot be read .*; copy the folder again") as caught:
      load(folder)
    assert "\n" not in str(caught.value)
