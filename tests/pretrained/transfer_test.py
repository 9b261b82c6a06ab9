"""Pretrained weights: mapping to our networks, omitted arrays, and error messages."""

import functools
import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.models.resnet import ResNet
from fer_jax.pretrained import weights_file
from fer_jax.runtime.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden"
FILE = GOLDEN / "resnet18_width4.safetensors"
LOGITS = np.load(GOLDEN / "resnet18_width4_logits.npz")
SMALL = ResNet(18, "imagenet", width=4)


@functools.cache
def variables(settings=SMALL, channels=3, num_classes=7):
  """Returns the shapes of the parameters and statistics of a network."""
  network = settings.build(num_classes, jnp.float32, None)
  return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, channels)))


def load(path, settings=SMALL, channels=3, num_classes=7, **options):
  """Loads a file or run folder into a network with one extractor."""
  options = {"extractors": ("",), "classifier": "classifier", "keep_classifier": True} | options
  return pretrained.load(path, *variables(settings, channels, num_classes), **options)


def assert_same(loaded, expected):
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
  jax.tree.map(np.testing.assert_array_equal, loaded.stats, expected.stats)


def assert_rejected(pattern, path, *arguments, **options):
  """Asserts that loading raises an error that begins with the path and is printable."""
  with pytest.raises(UserError, match=pattern) as caught:
    load(path, *arguments, **options)
  assert str(caught.value).startswith(str(path))
  assert str(caught.value).isprintable()


def save(path, arrays):
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope="module")
def arrays():
  return weights_file.read(FILE)


class TestLogits:
  @pytest.mark.parametrize("file", ["resnet18_width4.pth", "resnet18_width4_legacy.pth", "resnet18_width4.safetensors"])
  @pytest.mark.parametrize(("images", "channels"), [("colour", 3), ("grey", 1)])
  def test_match_pytorch(self, file, images, channels):
    loaded = load(GOLDEN / file, SMALL, channels)
    network = SMALL.build(7, jnp.float32, None)
    outputs, _ = jax.jit(network.apply)(loaded.params, loaded.stats, LOGITS[images] / np.float32(255))
    np.testing.assert_allclose(outputs.logits, LOGITS[f"{images}_logits"], atol=1e-4, rtol=0)
    assert loaded.report.summed == (images == "grey")

  def test_npz_gives_the_same_variables(self, tmp_path, arrays):
    assert_same(load(save(tmp_path / "w.npz", arrays)), load(FILE))


class TestMapping:
  def test_maps_names_and_axes(self, arrays):
    params, stats, _ = load(FILE)
    kernel = params["layer2_0"]["downsample"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0))
    norm = params["layer3_1"]["conv2"]["norm"]
    np.testing.assert_array_equal(norm["scale"], arrays["layer3.1.bn2.weight"])
    np.testing.assert_array_equal(norm["bias"], arrays["layer3.1.bn2.bias"])
    np.testing.assert_array_equal(stats["stem"]["norm"]["mean"], arrays["bn1.running_mean"])
    np.testing.assert_array_equal(stats["stem"]["norm"]["var"], arrays["bn1.running_var"])
    np.testing.assert_array_equal(params["classifier"]["linear"]["kernel"], arrays["fc.weight"].T)

  def test_returns_the_whole_network_with_its_dtypes(self):
    params, stats, _ = load(FILE)
    expected = variables()
    assert jax.tree.structure((params, stats)) == jax.tree.structure(expected)
    for array, shape in zip(jax.tree.leaves((params, stats)), jax.tree.leaves(expected), strict=True):
      assert isinstance(array, np.ndarray)
      assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
      assert array.flags.c_contiguous
      assert array.flags.writeable

  def test_accepts_arrays_instead_of_shapes_and_does_not_change_them(self):
    params, stats = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables())
    loaded = pretrained.load(str(FILE), params, stats, extractors=("",), classifier="classifier", keep_classifier=True)
    assert_same(loaded, load(FILE))
    assert all(not leaf.any() for leaf in jax.tree.leaves((params, stats)))

  def test_omits_the_classifier_unless_it_is_kept(self):
    params, stats, report = load(FILE, num_classes=5, keep_classifier=False)
    assert set(variables()[0]) - set(params) == {"classifier"}
    assert params.keys() == stats.keys()
    assert report.unused == ("fc.bias", "fc.weight")

  def test_casts_to_the_dtype_of_the_network(self, tmp_path, arrays):
    float64 = save(tmp_path / "w.npz", {key: array.astype(np.float64) for key, array in arrays.items()})
    assert_same(load(float64), load(FILE))
    params, stats = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), variables())
    loaded = pretrained.load(FILE, params, stats, extractors=("",), classifier="classifier")
    kernel = loaded.params["stem"]["conv"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, arrays["conv1.weight"].transpose(2, 3, 1, 0).astype(jnp.bfloat16))

  def test_only_the_first_convolution_is_summed_over_colour_channels(self, arrays):
    params, _, report = load(FILE, channels=1)
    kernel = arrays["conv1.weight"].astype(np.float64).sum(axis=1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(params["stem"]["conv"]["kernel"], kernel, rtol=1e-6)
    assert params["layer1_0"]["conv1"]["conv"]["kernel"].shape == (3, 3, 4, 4)
    assert report.summed
    assert not load(FILE).report.summed

  def test_does_not_sum_the_convolution_of_a_grey_file(self, tmp_path, arrays):
    grey = arrays | {"conv1.weight": arrays["conv1.weight"][:, :1]}
    params, _, report = load(save(tmp_path / "w.npz", grey), channels=1)
    np.testing.assert_array_equal(params["stem"]["conv"]["kernel"], grey["conv1.weight"].transpose(2, 3, 1, 0))
    assert not report.summed

  def test_fills_two_extractors_with_copies(self):
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

  def test_rejects_names_that_match_no_layer(self):
    with pytest.raises(ValueError, match="no layer begins with 'c_'"):
      load(FILE, extractors=("", "c_"))
    with pytest.raises(ValueError, match="no layer is named 'head'"):
      load(FILE, classifier="head")


class TestReport:
  def test_lists_filled_and_unused_arrays(self):
    report = load(FILE, channels=1, keep_classifier=False).report
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert report == pretrained.Report(str(FILE), sha256, 100, 100, ("fc.bias", "fc.weight"), 20, True)
    assert str(report) == (
      f"100 arrays filled with 100 of {FILE} (sha256 {sha256[:12]}), first convolution summed over its colour "
      "channels; not used: fc.bias, fc.weight and 20 batch counters"
    )

  def test_shortens_long_lists(self, tmp_path, arrays):
    more = {f"head{i}.weight": arrays["fc.bias"] for i in range(5)}
    report = load(save(tmp_path / "w.npz", arrays | more)).report
    assert report.unused == tuple(more)
    assert str(report).endswith("; not used: head0.weight, head1.weight, head2.weight and 2 more and 20 batch counters")


class TestErrors:
  def test_missing_file(self, tmp_path):
    assert_rejected("no such file", tmp_path / "w.pth")

  def test_file_of_a_shallower_network(self):
    pattern = re.escape("80 of 182 arrays are missing (layer1.2.conv1.weight for layer1_2/conv1/conv/kernel, ")
    depth = (
      "another architecture: the file's stages have 2, 2, 2, 2 blocks of 2 convolutions; compare config.model.depth"
    )
    assert_rejected(f"{pattern}.* and .* more.*{depth}", FILE, ResNet(34, "imagenet", width=4))

  def test_file_of_a_deeper_network(self, tmp_path, arrays):
    more = {key.replace("layer1.1", "layer1.2"): array for key, array in arrays.items() if key.startswith("layer1.1")}
    pattern = r"no counterpart of 10 of its arrays \(layer1.2.bn1.bias, .* and 7 more\).*3, 2, 2, 2 blocks"
    assert_rejected(pattern, save(tmp_path / "w.npz", arrays | more))

  def test_file_without_bottleneck_blocks(self):
    assert_rejected(
      r"are missing \(layer1.*conv3.*blocks of 2 convolutions; compare config.model.depth",
      FILE,
      ResNet(50, "imagenet", width=4),
    )

  def test_unknown_names(self, tmp_path, arrays):
    path = save(tmp_path / "w.npz", {f"backbone.{key}": array for key, array in arrays.items()})
    assert_rejected(
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
  def test_different_shapes(self, settings, channels, pattern):
    assert_rejected(pattern, FILE, settings, channels)

  def test_different_kernel_shapes(self, tmp_path, arrays):
    narrow = arrays | {"layer1.0.conv1.weight": arrays["layer1.0.conv1.weight"][:, :, :1, :1]}
    pattern = "layer1.0.conv1.weight is 4x4x1x1, but layer1_0/conv1/conv/kernel needs 4x4x3x3; .*config.model.depth"
    assert_rejected(pattern, save(tmp_path / "w.npz", narrow))
    flat = arrays | {"layer1.0.conv1.weight": np.float32(3)}
    assert_rejected(
      "layer1.0.conv1.weight is a single number, but .*config.model.depth", save(tmp_path / "w.npz", flat)
    )

  def test_different_number_of_axes(self, tmp_path, arrays):
    flat = arrays | {"conv1.weight": np.zeros((7, 7, 3), np.float32)}
    assert_rejected("conv1.weight is 7x7x3, but stem/conv/kernel needs 4x3x7x7", save(tmp_path / "w.npz", flat))

  def test_different_number_of_classes(self):
    assert_rejected("fc.(weight|bias) is 7.*, but .* needs 8.*; skip the classifier", FILE, num_classes=8)

  def test_network_with_layers_unknown_to_torchvision(self):
    settings = ResNet(18, "imagenet", squeeze_excite=True, width=4)
    pattern = "no counterpart of layer1_0/squeeze_excite/expand/(bias|kernel); this network can only be filled from"
    assert_rejected(pattern, FILE, settings)

  @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
  def test_numbers_that_are_not_finite(self, tmp_path, arrays, value):
    broken = arrays["bn1.weight"].copy()
    broken[1] = value
    assert_rejected(
      "bn1.weight has values that are not finite", save(tmp_path / "w.npz", arrays | {"bn1.weight": broken})
    )

  def test_numbers_too_large_for_the_dtype(self, tmp_path, arrays):
    large = arrays | {"bn1.weight": np.full(4, 1e300)}
    assert_rejected("bn1.weight has values that are not finite in float32", save(tmp_path / "w.npz", large))

  def test_integer_arrays(self, tmp_path, arrays):
    whole = arrays | {"bn1.weight": np.ones(4, np.int8)}
    assert_rejected("bn1.weight has dtype int8; expected a floating-point dtype", save(tmp_path / "w.npz", whole))
