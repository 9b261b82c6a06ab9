"""Network of mixed and coordinate attention: shapes, parameter counts, comparison with float64, initialization."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models import MODELS
from fer_jax.models.ca_resnet import CABasicBlock, CaResNet
from fer_jax.models.resnet import ResNet
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Examples
from tests.layers.attention_test import convolve, coordinate_attention, in_float64, mixed_attention
from tests.layers.variables import drawn, random_variables
from tests.models.baselines.shapes import count, image_of, traced

FIGURE_BLOCKS, RESNET34_BLOCKS = (2, 2, 2, 2), (3, 4, 6, 3)
SMALL = CaResNet((1, 2), width=4, reduction=2)
X = np.random.default_rng(0).normal(0.2, 1, (3, 7, 6, 8)).astype(np.float32)


def test_layers_have_the_shapes_of_the_paper():
  rows = [("stem", 24, 64), ("attention", 24, 64)]
  rows += [(f"layer{1 + i // 2}_{i % 2}", (12, 6, 3, 2)[i // 2], (64, 128, 256, 512)[i // 2]) for i in range(8)]
  expected = [(name, (2, side, side, channels)) for name, side, channels in rows]
  found = traced(CaResNet())
  assert [(name, output.shape) for name, output in found.outputs.items()] == [*expected, ("classifier", (2, 7))]
  assert found.features.shape == (2, 512)
  assert list(found.network.layers) == [*found.network.hidden, "classifier"]
  assert [len(block) for block in found.network.blocks] == [2, *FIGURE_BLOCKS]
  assert [len(block) for block in traced(CaResNet(RESNET34_BLOCKS)).network.blocks] == [2, *RESNET34_BLOCKS]


@pytest.mark.parametrize(
  ("halve", "size", "sides"),
  [(False, 48, (48, 24, 12, 6, 3)), (True, 47, (24, 12, 6, 3, 2)), (True, 96, (48, 24, 12, 6, 3)), (True, 1, (1,) * 5)],
)
def test_accepts_any_image_size_with_and_without_halving(halve, size, sides):
  outputs = traced(CaResNet(width=8, halve=halve), size).outputs
  assert tuple(outputs[name].shape[1] for name in ("stem", *(f"layer{i}_0" for i in range(1, 5)))) == sides


def parameters(blocks, kernel_sizes=(3, 3), width=64, reduced=lambda c: max(c // 32, 8), hidden=4, channels=1):
  """Counts the parameters; a normalisation has a scale and a bias per channel, an activation one slope."""
  total = 9 * channels * width + 2 * width + 1  # the first convolution
  total += 2 * width * hidden + 7 * 7 * 2 + (2 * width + 1) * width  # mixed attention: channels, positions, fusion
  inputs = width
  for stage, n in enumerate(blocks):
    c = width * 2**stage
    for _ in range(n):
      total += kernel_sizes[0] ** 2 * inputs * c + sum(k * k * c * c for k in kernel_sizes[1:])
      total += len(kernel_sizes) * (2 * c + 1)
      total += c * reduced(c) + 2 * reduced(c) + 2 * (reduced(c) + 1) * c  # coordinate attention
      total += inputs * c if inputs != c else 0
      inputs = c
  return total + (inputs + 1) * 7


@pytest.mark.parametrize(
  ("blocks", "depth", "total"), [(FIGURE_BLOCKS, 18, 11_253_018), (RESNET34_BLOCKS, 34, 21_421_882)]
)
def test_parameter_count_is_that_of_the_layers_and_slightly_above_resnet(blocks, depth, total):
  found = count(traced(CaResNet(blocks)).params)
  assert found == parameters(blocks) == total
  assert count(traced(ResNet(depth)).params) < found < 1.01 * count(traced(ResNet(depth)).params)


@pytest.mark.parametrize("kernel_sizes", [(3, 1), (1, 3), (1, 3, 1), (3,)])
def test_parameter_count_follows_the_settings(kernel_sizes):
  settings = CaResNet((1, 2), kernel_sizes, width=32, reduction=4, coordinate_reduction=2)
  expected = parameters((1, 2), kernel_sizes, 32, lambda c: c // 2, 8, channels=3)
  assert count(traced(settings, channels=3).params) == expected


def normalized(x, params, stats, train):
  mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
  return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def prelu(x, params):
  return np.where(x > 0, x, params["negative_slope"] * x)


def reference_block(x, variables, stride, train):
  """Computes the block of figure 6, with the stride at the first of the largest convolutions."""
  params, stats = variables["params"], variables["batch_stats"]
  kernels = [params[name]["kernel"] for name in sorted(params) if name.startswith("conv")]
  sides = [len(kernel) for kernel in kernels]
  y = x
  for i, kernel in enumerate(kernels):
    y = convolve(y, kernel, stride if i == sides.index(max(sides)) else 1)
    if i + 1 < len(kernels):
      y = prelu(normalized(y, params[f"norm{i + 1}"], stats[f"norm{i + 1}"], train), params[f"prelu{i + 1}"])
  gates = {"params": params["attention"], "batch_stats": stats["attention"]}
  y = coordinate_attention(y, gates, train)
  if x.shape != y.shape:
    x = x[:, ::stride, ::stride] @ params["shortcut"]["kernel"][0, 0]
  return prelu(normalized(x + y, params["norm"], stats["norm"], train), params["prelu"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def applied(layer, variables, x, train=False):
  return layer.apply(variables, x, train=train, mutable=["batch_stats"])[0]


@pytest.mark.parametrize(
  ("block", "train"),
  [
    (CABasicBlock(8), True),
    (CABasicBlock(8, reduction=1), False),
    (CABasicBlock(16, 2), True),
    (CABasicBlock(4, 2, (1, 3)), False),
    (CABasicBlock(8, 2, (3, 1)), False),
  ],
)
def test_block_matches_float64(block, train):
  variables = random_variables(block, X)
  found = applied(block, variables, X, train)
  expected = reference_block(X.astype(float), in_float64(variables), block.stride, train)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("slope", [1, 0])
def test_block_with_closed_gates_is_the_activation_of_its_normalised_input(slope):
  block = CABasicBlock(8)
  variables = random_variables(block, X)
  closed = {"kernel": jnp.zeros((8, 8)), "bias": jnp.full(8, -1e3)}
  variables["params"]["attention"] |= {"rows": closed, "columns": closed}
  variables["params"]["prelu"]["negative_slope"] = jnp.float32(slope)
  variables["params"]["norm"] = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
  variables["batch_stats"]["norm"] = {"mean": jnp.zeros(8), "var": jnp.full(8, 1 - 1e-5)}
  found = applied(block, variables, X)
  np.testing.assert_allclose(found, np.where(X > 0, X, slope * X), rtol=1e-5, atol=1e-6)


def reference_network(params, stats, image, train):
  """Computes the features of SMALL; in images of odd size, the last row and column are averaged alone."""
  batch, height, width, _ = image.shape
  x = np.zeros((batch, (height + 1) // 2, (width + 1) // 2, 1))
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      x[:, i, j] = image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
  stem = params["stem"]
  x = normalized(convolve(x, stem["conv"]["kernel"]), stem["norm"], stats["stem"]["norm"], train)
  x = mixed_attention(prelu(x, stem["activation"]), params["attention"])
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros are neutral for the maximum: no activation is negative
  rows, columns = ((side + 1) // 2 for side in x.shape[1:3])
  x = np.zeros((batch, rows, columns, x.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      x[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
  for name, stride in {"layer1_0": 1, "layer2_0": 2, "layer2_1": 1}.items():
    x = reference_block(x, {"params": params[name], "batch_stats": stats[name]}, stride, train)
  return x.mean((1, 2))


class SmallNetwork(NamedTuple):
  """SMALL, its variables, two images, and (outputs, statistics) of evaluation and training."""

  network: Any
  params: Any
  stats: Any
  image: np.ndarray
  evaluated: Any
  trained: Any


@pytest.fixture(scope="module")
def small():
  image = np.random.default_rng(2).normal(size=(2, 13, 15, 1)).astype(np.float32)
  network = SMALL.build(7, jnp.float32, None)
  params, stats = map(drawn, jax.eval_shape(network.init, jax.random.key(0), image))

  @jax.jit
  def run(params, stats, image):
    return network.apply(params, stats, image), network.apply(params, stats, image, key=jax.random.key(1))

  return SmallNetwork(network, params, stats, image, *run(params, stats, image))


@pytest.mark.parametrize("train", [False, True])
def test_features_match_float64(small, train):
  expected = reference_network(in_float64(small.params), in_float64(small.stats), small.image.astype(float), train)
  outputs, _ = small.trained if train else small.evaluated
  np.testing.assert_allclose(outputs.features, expected, rtol=1e-3, atol=1e-4)
  assert np.ptp(expected, axis=0).max() > 1e-2


def test_statistics_change_only_in_training(small):
  chex.assert_trees_all_equal(small.evaluated[1], small.stats)
  pairs = zip(jax.tree.leaves(small.stats), jax.tree.leaves(small.trained[1]), strict=True)
  assert all(np.any(before != after) for before, after in pairs)


def test_classifier_applies_dropout_only_in_training(small):
  kernel, bias = (np.asarray(small.params["classifier"]["linear"][name]) for name in ("kernel", "bias"))
  outputs, _ = small.evaluated
  np.testing.assert_allclose(outputs.logits, np.asarray(outputs.features) @ kernel + bias, atol=1e-4)

  @jax.jit
  def trained(key, features):
    return small.network.call("classifier", small.params["classifier"], {}, (features,), key)[0]

  # The dropout mask of the 8 features is the one of the 2^8 masks that reproduces the logits.
  masks = np.array(list(np.ndindex((2,) * 8)))
  found = []
  steps = [(outputs.features, trained(jax.random.key(seed), outputs.features)) for seed in range(2, 8)]
  outputs, _ = small.trained
  for features, logits in [(outputs.features, outputs.logits), *steps]:
    for feature, logit in zip(np.asarray(features), np.asarray(logits), strict=True):
      distance = np.abs((masks * feature / 0.7) @ kernel + bias - logit).max(axis=1)
      assert distance.min() < 1e-4
      found.append(masks[distance.argmin()])
  assert np.mean(found) == pytest.approx(0.7, abs=0.13)  # 112 samples, three standard deviations
  assert len({tuple(mask) for mask in found}) > 3


def test_initial_kernels_are_he_normal_slopes_a_quarter_and_biases_zero():
  network = CaResNet((1, 1), (3,), width=32, coordinate_reduction=1).build(7, jnp.float32, None)
  params, _ = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  kernels = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = "/".join(key.key for key in path)
    if leaf.ndim > 1:
      kernels[name] = np.asarray(leaf).ravel() / np.sqrt(2 / np.prod(leaf.shape[:-1]))
    else:
      expected = {"negative_slope": 0.25, "scale": 1, "bias": 0}[path[-1].key]
      np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected), err_msg=name)
  assert len(kernels) == 1 + 4 + 2 * 4 + 1 + 1
  for name, values in kernels.items():
    assert values.std() == pytest.approx(1, abs=4 / np.sqrt(2 * values.size)), name
    assert values.mean() == pytest.approx(0, abs=4 / np.sqrt(values.size)), name


def test_all_layers_use_the_dtype_and_normalise_over_the_axis():
  found = traced(CaResNet(width=8), dtype=jnp.bfloat16, axis_name="devices")
  assert {dtype for _, dtype, _ in found.modules} == {jnp.bfloat16}
  assert {axis for kind, _, axis in found.modules if kind.__name__ == "BatchNorm"} == {"devices"}
  assert {name for name, output in found.outputs.items() if output.dtype == jnp.float32} == {"classifier"}
  assert {leaf.dtype for leaf in jax.tree.leaves((found.params, found.stats))} == {jnp.dtype("float32")}


def test_hsic_bottleneck_trains_every_hidden_layer():
  network, params, stats, *_ = traced(SMALL)
  objective = HsicBottleneck(group="block").build(network, frozenset(network.layers), None)
  batch = Examples(image_of(48, 1), jax.ShapeDtypeStruct((2, 7), jnp.float32))
  output = jax.eval_shape(objective, params, stats, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(output.gradients, params)
  assert {f"hsic_label/{layer}" for layer in network.hidden} <= output.metrics.keys()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    *(({"blocks": blocks}, r"^model\.blocks=\(.*: expected at least one stage") for blocks in ((), (2, 0))),
    *(
      ({"kernel_sizes": sizes}, r"^model\.kernel_sizes=\(.*: expected at least one odd")
      for sizes in ((), (3, 2), (-1,))
    ),
    *(({key: 0}, rf"^model\.{key}=0: expected 1") for key in ("width", "reduction", "coordinate_reduction")),
    *(({"dropout": rate}, rf"^model\.dropout={rate}: expected a rate") for rate in (-0.1, 1.0)),
  ],
)
def test_rejects_invalid_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    MODELS["ca_resnet"](**settings)
