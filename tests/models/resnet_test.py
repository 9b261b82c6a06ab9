"""Residual networks: shapes, parameter counts, initialization, and comparison with PyTorch where it is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.models import MODELS
from fer_jax.models.resnet import CifarResNet, ResNet
from tests.layers.variables import drawn
from tests.models.baselines.shapes import count, imagenet_parameters, traced


@pytest.mark.parametrize(
  ("settings", "published"),
  [
    (ResNet(18, "imagenet"), 11_689_512),
    (ResNet(34, "imagenet"), 21_797_672),
    (ResNet(50, "imagenet"), 25_557_032),
    (ResNet(18, "imagenet", squeeze_excite=True), 11_778_592),
  ],
)
def test_has_the_published_number_of_parameters(settings, published):
  assert imagenet_parameters(settings) == published


@pytest.mark.parametrize(
  ("stem", "size", "sides"),
  [("small", 48, [48, 48, 24, 12, 6]), ("strided", 48, [24, 24, 12, 6, 3]), ("imagenet", 224, [112, 56, 28, 14, 7])],
)
@pytest.mark.parametrize(("depth", "channels"), [(34, [64, 64, 128, 256, 512]), (50, [64, 256, 512, 1024, 2048])])
def test_each_stage_halves_the_resolution_and_doubles_the_channels(stem, size, sides, depth, channels):
  outputs = traced(ResNet(depth, stem), size).outputs
  firsts = [outputs[name].shape[1:] for name in ("stem", *(f"layer{i}_0" for i in (1, 2, 3, 4)))]
  assert firsts == [(side, side, c) for side, c in zip(sides, channels, strict=True)]
  assert len(outputs) == 1 + 16 + 1


def test_blocks_sets_the_number_of_blocks_per_stage():
  assert list(traced(ResNet(blocks=(1, 2), width=4), 48).outputs) == [
    "stem",
    "layer1_0",
    "layer2_0",
    "layer2_1",
    "classifier",
  ]
  with pytest.raises(ValueError, match="model.blocks"):
    ResNet(blocks=(1, 0))


DEPTHS = (20, 38, 56, 74)
KINDS = ("residual", "plain")


def conv(side, inputs, outputs):
  """Returns the number of parameters of a convolution of side x side and its normalisation."""
  return side * side * inputs * outputs + 2 * outputs


def parameters(depth, kind, width=16, first=16, channels=1, classes=7):
  n = (depth - 2) // 6
  total = conv(3, channels, first)
  for inputs, outputs in ((first, width), (width, 2 * width), (2 * width, 4 * width)):
    total += conv(3, inputs, outputs) + (2 * n - 1) * conv(3, outputs, outputs)
    if kind == "residual" and inputs != outputs:
      total += conv(1, inputs, outputs)
  return total + (4 * width + 1) * classes


@pytest.mark.parametrize(("depth", "total"), [(20, 271_991), (38, 563_639), (56, 855_287), (74, 1_146_935)])
def test_parameter_count_is_that_of_the_layers(depth, total):
  residual, plain = (count(traced(CifarResNet(depth, kind)).params) for kind in KINDS)
  assert residual == parameters(depth, "residual") == total
  assert plain == parameters(depth, "plain") == total - conv(1, 16, 32) - conv(1, 32, 64)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_plain_network_has_the_published_size_of_he_et_al(depth, millions):
  # The shortcuts of He et al. have no parameters, so that their residual networks have the size of the plain ones.
  total = count(traced(CifarResNet(depth, "plain"), 32, 3, 10).params)
  assert total / 1e6 == pytest.approx(millions, abs=0.04 if depth == 110 else 0.006)


def test_parameter_count_follows_width_and_first_convolution():
  for kind in KINDS:
    found = traced(CifarResNet(20, kind, width=8, first=4), channels=3).params
    assert count(found) == parameters(20, kind, width=8, first=4, channels=3)
    assert ("downsample" in found["module1_0"]) == (kind == "residual")
  assert "downsample" not in traced(CifarResNet(20, first=16)).params["module1_0"]


@pytest.mark.parametrize("depth", [8, *DEPTHS])
def test_plain_network_is_the_residual_one_without_shortcut_branches(depth):
  residual, plain = (traced(CifarResNet(depth, kind)) for kind in KINDS)
  assert residual.outputs == plain.outputs
  for tree, plain_tree in ((residual.params, plain.params), (residual.stats, plain.stats)):
    kept = {layer: {name: v for name, v in parts.items() if name != "downsample"} for layer, parts in tree.items()}
    assert kept == plain_tree
  branches = {layer for layer, parts in residual.params.items() if "downsample" in parts}
  assert branches == {"module2_0", "module3_0"}


def test_depth_counts_convolutions_and_classifier_but_not_shortcut_branches():
  for depth in (8, *DEPTHS):
    paths = jax.tree_util.tree_flatten_with_path(traced(CifarResNet(depth)).params)[0]
    kernels = ["".join(map(str, path)) for path, leaf in paths if leaf.ndim > 1]
    assert len([path for path in kernels if "downsample" not in path]) == depth


@pytest.mark.parametrize(
  ("size", "sides"), [(128, (128, 64, 32)), (48, (48, 24, 12)), (33, (33, 17, 9)), (5, (5, 3, 2)), (4, (4, 2, 1))]
)
def test_last_feature_map_has_a_quarter_of_the_image_size(size, sides):
  expected = [("stem", (2, size, size, 16))]
  for module, side in enumerate(sides, start=1):
    expected += [(f"module{module}_{i}", (2, side, side, 8 * 2**module)) for i in range(3)]
  found = traced(CifarResNet(20), size)
  assert [(name, output.shape) for name, output in found.outputs.items()] == [*expected, ("classifier", (2, 7))]
  assert found.features.shape == (2, 64)
  assert list(found.network.layers) == [*found.network.hidden, "classifier"]
  assert [len(block) for block in found.network.blocks] == [1, 3, 3, 3]


def test_all_layers_use_the_dtype_and_normalise_over_the_axis():
  found = traced(CifarResNet(8), dtype=jnp.bfloat16, axis_name="devices")
  assert {dtype for _, dtype, _ in found.modules} == {jnp.bfloat16}
  assert {axis for kind, _, axis in found.modules if kind.__name__ == "BatchNorm"} == {"devices"}
  assert {name for name, output in found.outputs.items() if output.dtype == jnp.float32} == {"classifier"}


@pytest.fixture(scope="module")
def initialized():
  network = CifarResNet(14, width=32, first=8).build(7, jnp.float32, None)
  return network, *jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_initial_kernels_are_he_normal_without_truncation(initialized):
  _, params, _ = initialized
  paths = jax.tree_util.tree_flatten_with_path({name: params[name] for name in params if name != "classifier"})[0]
  kernels = [np.asarray(leaf) for _, leaf in paths if leaf.ndim == 4]
  assert len(kernels) == 1 + 12 + 3
  scaled = [kernel.ravel() / np.sqrt(2 / np.prod(kernel.shape[:3])) for kernel in kernels]
  for values in scaled:
    assert values.std() == pytest.approx(1, abs=4 / np.sqrt(2 * values.size))
    assert values.mean() == pytest.approx(0, abs=4 / np.sqrt(values.size))
  values = np.concatenate(scaled)
  for z, outside in ((1, 0.31731), (2, 0.04550), (3, 0.00270)):  # a truncated normal has none beyond 2.3
    assert np.mean(np.abs(values) > z) == pytest.approx(outside, rel=0.05)


def test_initial_classifier_is_zero_and_the_loss_is_log_k(initialized):
  network, params, stats = initialized
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(params["classifier"]))
  image = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  outputs, _ = jax.jit(network.apply)(params, stats, image, key=jax.random.key(2))
  loss = optax.softmax_cross_entropy(outputs.logits, jax.nn.one_hot(jnp.arange(4), 7)).mean()
  assert loss == pytest.approx(np.log(7), rel=1e-6)
  assert np.ptp(outputs.features, axis=0).max() > 0.1


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    *(({"depth": depth}, rf"^model\.depth={depth}: expected 6n \+ 2") for depth in (2, -4, 7, 18, 34, 75)),
    ({"kind": "dense"}, r"^model\.kind='dense': expected one of residual, plain"),
    ({"width": 0}, r"^model\.width=0: expected a number of channels"),
    ({"first": -1}, r"^model\.first=-1: expected a number of channels"),
  ],
)
def test_rejects_invalid_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    MODELS["cifar_resnet"](**settings)


def torch_network(torch, settings, params, stats, image, train):
  """Computes the network with PyTorch's functions and returns the logits and the new running averages."""
  averages = {}

  def tensor(value):
    return torch.tensor(np.asarray(value))

  def unit(x, layer, name, stride=1):
    p, s = params[layer], stats[layer]
    if name:
      p, s = p[name], s[name]
    kernel = tensor(p["conv"]["kernel"]).permute(3, 2, 0, 1)
    x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, var = tensor(s["norm"]["mean"]), tensor(s["norm"]["var"])
    size = x.numel() // x.shape[1]
    x = torch.nn.functional.batch_norm(
      x, mean, var, tensor(p["norm"]["scale"]), tensor(p["norm"]["bias"]), training=train, momentum=0.1, eps=1e-5
    )
    if train:  # PyTorch averages the unbiased variance, which is converted to the biased one
      var = 0.9 * tensor(s["norm"]["var"]) + (var - 0.9 * tensor(s["norm"]["var"])) * (size - 1) / size
    averages[layer, name] = (mean.numpy(), var.numpy())
    return x

  x = torch.relu(unit(torch.from_numpy(image).permute(0, 3, 1, 2), "stem", ""))
  for module in (1, 2, 3):
    for i in range((settings.depth - 2) // 6):
      layer, stride = f"module{module}_{i}", 2 if module > 1 and i == 0 else 1
      y = unit(torch.relu(unit(x, layer, "conv1", stride)), layer, "conv2")
      if settings.kind == "residual":
        y = y + (unit(x, layer, "downsample", stride) if "downsample" in params[layer] else x)
      x = torch.relu(y)
  linear = params["classifier"]["linear"]
  return (x.mean((2, 3)) @ tensor(linear["kernel"]) + tensor(linear["bias"])).numpy(), averages


@pytest.mark.parametrize(
  ("settings", "size"),
  [
    (CifarResNet(8, "residual", width=8), 16),
    (CifarResNet(8, "plain", width=8), 16),
    (CifarResNet(8, "residual", width=8, first=4), 11),
    (CifarResNet(14, "plain", width=4, first=3), 11),
  ],
)
@pytest.mark.parametrize("train", [False, True])
def test_logits_and_running_averages_match_pytorch(settings, size, train):
  torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
  image = np.random.default_rng(0).normal(size=(5, size, size, 3)).astype(np.float32)
  network = settings.build(7, jnp.float32, None)
  params, stats = map(drawn, jax.eval_shape(network.init, jax.random.key(0), image))
  expected, averages = torch_network(torch, settings, params, stats, image, train)
  run = jax.jit(functools.partial(network.apply, key=jax.random.key(0) if train else None))
  outputs, new_stats = run(params, stats, image)
  np.testing.assert_allclose(outputs.logits, expected, atol=1e-4 * max(1, np.abs(expected).max()), rtol=0)
  assert np.ptp(expected, axis=0).max() > 1e-2
  for (layer, name), (mean, var) in averages.items():
    norm = (new_stats[layer][name] if name else new_stats[layer])["norm"]
    np.testing.assert_allclose(norm["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(norm["var"], var, rtol=1e-3, atol=1e-4)
