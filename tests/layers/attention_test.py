"""Attention layers: comparison with the equations in float64, gates at their limits, parameter shapes and dtypes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.attention import (
  AttentiveClassifier,
  ChannelAttention,
  CoordinateAttention,
  MixedAttention,
  SpatialAttention,
  SqueezeExcite,
)
from tests.layers.variables import random_variables, shapes_of

B, D, K = 5, 24, 7  # batch, features and classes of the attentive classifier


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def in_float64(variables):
  return jax.tree.map(lambda leaf: np.asarray(leaf, float), variables)


SIGMOIDS = {
  "logistic": (nn.sigmoid, sigmoid),
  "hard": (nn.hard_sigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
}


@pytest.mark.parametrize("gate", SIGMOIDS)
def test_squeeze_excite_matches_float64(gate):
  function, reference = SIGMOIDS[gate]
  x = np.random.default_rng(0).normal(1, 2, (3, 5, 4, 8)).astype(np.float32)
  layer = SqueezeExcite(2, gate=function)
  variables = random_variables(layer, x)
  reduce, expand = (in_float64(variables["params"][k]) for k in ("reduce", "expand"))
  assert reduce["kernel"].shape == (8, 2)
  hidden = np.maximum(x.astype(float).mean(axis=(1, 2)) @ reduce["kernel"] + reduce["bias"], 0)
  gates = reference(hidden @ expand["kernel"] + expand["bias"])
  found = layer.apply(variables, x, train=False)
  np.testing.assert_allclose(found, x * gates[:, None, None, :], rtol=1e-4, atol=1e-5)


def convolve(x, kernel, stride=1):
  """Convolves [B, H, W, I] with [k, k, I, O] by sums of shifted feature maps, with zeros as padding."""
  k, (_, height, width, _) = len(kernel), x.shape
  padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  return sum(
    padded[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i in range(k) for j in range(k)
  )


def channel_attention(x, params):
  """Returns the product of x and its channel attention, equation 2."""

  def mlp(pooled):
    return np.maximum(pooled @ params["reduce"]["kernel"], 0) @ params["expand"]["kernel"]

  return x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]


def spatial_attention(x, params):
  """Returns the product of x and its spatial attention, equation 3."""
  pooled = np.stack([x.mean(-1), x.max(-1)], axis=-1)
  return x * sigmoid(convolve(pooled, params["conv"]["kernel"]))


def mixed_attention(x, params):
  """Returns the output of figure 5."""
  both = [channel_attention(x, params["channel"]), spatial_attention(x, params["spatial"])]
  fused = np.concatenate(both, axis=-1) @ params["fuse"]["kernel"][0, 0] + params["fuse"]["bias"]
  return np.maximum(x * (1 + fused), 0)


class TestChannelSpatialAndMixedAttention:
  X = np.random.default_rng(0).normal(0.5, 2, (3, 5, 4, 8)).astype(np.float32)
  LAYERS = (ChannelAttention(reduction=4), SpatialAttention(), MixedAttention(reduction=4))
  REFERENCES = (channel_attention, spatial_attention, mixed_attention)

  @staticmethod
  @functools.partial(jax.jit, static_argnums=(0, 3))
  def apply(layer, variables, x, train=False):
    return layer.apply(variables, x, train=train)

  @pytest.mark.parametrize(("layer", "reference"), list(zip(LAYERS, REFERENCES, strict=True)))
  def test_matches_its_equation_in_float64(self, layer, reference):
    variables = random_variables(layer, self.X)
    found = self.apply(layer, variables, self.X)
    expected = reference(self.X.astype(float), in_float64(variables["params"]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found, self.apply(layer, variables, self.X, True))

  def test_parameter_shapes_follow_the_settings(self):
    def found(layer, channels):
      shapes = shapes_of(layer, jnp.zeros((1, 4, 4, channels)))
      return [leaf.shape for leaf in jax.tree.leaves(shapes["params"])]

    assert found(ChannelAttention(), 64) == [(4, 64), (64, 4)]
    assert found(ChannelAttention(reduction=100), 8) == [(1, 8), (8, 1)]
    assert found(SpatialAttention(), 64) == [(7, 7, 2, 1)]
    assert found(SpatialAttention(kernel_size=3), 64) == [(3, 3, 2, 1)]
    assert found(MixedAttention(2, 5), 8) == [(4, 8), (8, 4), (8,), (1, 1, 16, 8), (5, 5, 2, 1)]

  @pytest.mark.parametrize("layer", LAYERS[:2])
  def test_zero_parameters_give_gates_of_one_half(self, layer):
    zeros = jax.tree.map(jnp.zeros_like, random_variables(layer, self.X))
    np.testing.assert_array_equal(self.apply(layer, zeros, self.X), self.X / 2)

  @pytest.mark.parametrize("layer", LAYERS[:2])
  def test_large_weights_open_or_close_the_gates(self, layer):
    positive = np.abs(self.X) + 1
    large = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100), random_variables(layer, self.X))
    np.testing.assert_array_equal(self.apply(layer, large, positive), positive)
    last = "expand" if "expand" in large["params"] else "conv"
    large["params"][last]["kernel"] *= -1
    np.testing.assert_allclose(self.apply(layer, large, positive), np.zeros_like(positive), atol=1e-30)

  def test_mixed_attention_with_zero_fusion_is_the_activation(self):
    layer = self.LAYERS[2]
    variables = random_variables(layer, self.X)
    variables["params"]["fuse"] = jax.tree.map(jnp.zeros_like, variables["params"]["fuse"])
    np.testing.assert_array_equal(self.apply(layer, variables, self.X), np.maximum(self.X, 0))

  def test_channel_attention_ignores_positions_and_spatial_attention_channels(self):
    channel, spatial, _ = self.LAYERS
    variables = random_variables(channel, self.X)
    rotated = self.apply(channel, variables, self.X[:, ::-1, ::-1])
    np.testing.assert_allclose(rotated, self.apply(channel, variables, self.X)[:, ::-1, ::-1], rtol=1e-6)
    variables = random_variables(spatial, self.X)
    reordered = self.apply(spatial, variables, self.X[..., ::-1])
    np.testing.assert_allclose(reordered, self.apply(spatial, variables, self.X)[..., ::-1], rtol=1e-6)

  def test_all_parameters_have_gradients_at_initialization(self):
    layer = self.LAYERS[2]

    @jax.jit
    def gradient(key):
      return jax.grad(lambda v: jnp.sum(layer.apply(v, self.X, train=True) ** 2))(layer.init(key, self.X, train=False))

    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient(jax.random.key(0))))

  @pytest.mark.parametrize("layer", LAYERS)
  def test_computes_in_its_dtype_with_float32_parameters(self, layer):
    assert_computes_in_bfloat16(layer.copy(dtype=jnp.bfloat16), self.X.shape)


def assert_computes_in_bfloat16(layer, shape):
  """Asserts that outputs are bfloat16 and variables float32."""
  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  variables = shapes_of(layer, x)
  assert jax.eval_shape(functools.partial(layer.apply, train=False), variables, x).dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


ACTIVATIONS = {nn.hard_swish: lambda x: x * np.clip(x + 3, 0, 6) / 6, nn.relu: lambda x: np.maximum(x, 0)}
GATES = ("rows", "columns")


def coordinate_attention(x, variables, train, activation=ACTIVATIONS[nn.hard_swish]):
  """Computes equations 4 to 9 of Hou et al. 2021 row by row and column by column."""
  params, stats = variables["params"], variables["batch_stats"]["norm"]
  height, width = x.shape[1:3]
  pooled = [x[:, i].mean(1) for i in range(height)] + [x[:, :, j].mean(1) for j in range(width)]
  vectors = np.stack([vector @ params["reduce"]["kernel"] for vector in pooled])
  mean, var = (vectors.mean((0, 1)), vectors.var((0, 1))) if train else (stats["mean"], stats["var"])
  vectors = (vectors - mean) / np.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
  scores = activation(vectors)
  rows, columns = (sigmoid(scores @ params[name]["kernel"] + params[name]["bias"]) for name in GATES)
  weighted = np.empty_like(x)
  for i in range(height):
    for j in range(width):
      weighted[:, i, j] = x[:, i, j] * rows[i] * columns[height + j]
  return weighted


class TestCoordinateAttention:
  X = np.random.default_rng(0).normal(0.5, 2, (3, 5, 4, 16)).astype(np.float32)

  @staticmethod
  @functools.partial(jax.jit, static_argnums=(0, 3))
  def apply(layer, variables, x, train=False):
    """Returns the output and the new statistics."""
    output, updates = layer.apply(variables, x, train=train, mutable=["batch_stats"])
    return output, updates["batch_stats"]["norm"]

  @pytest.mark.parametrize("train", [False, True])
  @pytest.mark.parametrize("activation", ACTIVATIONS, ids=["hard_swish", "relu"])
  def test_matches_its_definition_in_float64(self, activation, train):
    layer = CoordinateAttention(2, activation)
    variables = random_variables(layer, self.X)
    assert variables["params"]["reduce"]["kernel"].shape == (16, 8)
    found, _ = self.apply(layer, variables, self.X, train)
    expected = coordinate_attention(self.X.astype(float), in_float64(variables), train, ACTIVATIONS[activation])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

  def test_statistics_are_over_rows_and_columns_and_change_only_in_training(self):
    layer = CoordinateAttention()
    variables = random_variables(layer, self.X)
    stats, kernel = variables["batch_stats"]["norm"], np.asarray(variables["params"]["reduce"]["kernel"])
    vectors = np.concatenate([self.X.mean(2), self.X.mean(1)], axis=1) @ kernel
    _, evaluated = self.apply(layer, variables, self.X)
    assert jax.tree.all(jax.tree.map(np.array_equal, evaluated, stats))
    _, trained = self.apply(layer, variables, self.X, True)
    for name, batch in (("mean", vectors.mean((0, 1))), ("var", vectors.var((0, 1)))):
      expected = 0.9 * stats[name] + 0.1 * batch
      np.testing.assert_allclose(trained[name], expected, rtol=1e-4, atol=1e-5)

  def test_statistics_are_over_all_devices(self):
    layer = CoordinateAttention(axis_name="devices")
    variables = random_variables(layer, self.X)
    found, _ = jax.vmap(lambda x: self.apply(layer, variables, x, True), axis_name="devices")(self.X[:, None])
    expected, _ = self.apply(CoordinateAttention(), variables, self.X, True)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)

  @pytest.mark.parametrize(("bias", "factor"), [(1e3, 1), (0, 0.25), (-1e3, 0)])
  def test_gates_with_zero_kernels_depend_only_on_the_bias(self, bias, factor):
    layer = CoordinateAttention()
    variables = random_variables(layer, self.X)
    for name in GATES:
      variables["params"][name] = {"kernel": jnp.zeros((8, 16)), "bias": jnp.full(16, bias)}
    np.testing.assert_array_equal(self.apply(layer, variables, self.X)[0], self.X * factor)

  @pytest.mark.parametrize(("name", "axis"), [("rows", 2), ("columns", 1)])
  def test_gates_are_constant_along_their_row_or_column(self, name, axis):
    layer = CoordinateAttention()
    variables = random_variables(layer, self.X)
    other = GATES[1 - GATES.index(name)]
    variables["params"][other] = {"kernel": jnp.zeros((8, 16)), "bias": jnp.full(16, 1e3)}
    gates = np.asarray(self.apply(layer, variables, self.X)[0]) / self.X
    np.testing.assert_allclose(np.ptp(gates, axis=axis), 0, atol=1e-5)
    assert np.ptp(gates, axis=3 - axis).min() > 1e-4

  @pytest.mark.parametrize(
    ("channels", "reduction", "reduced"), [(512, 32, 16), (256, 32, 8), (64, 32, 8), (64, 2, 32)]
  )
  def test_has_the_parameters_of_three_matrices_and_a_normalisation(self, channels, reduction, reduced):
    shapes = shapes_of(CoordinateAttention(reduction), jnp.zeros((1, 3, 2, channels)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == 3 * channels * reduced + 2 * channels + 2 * reduced
    assert shapes["batch_stats"]["norm"]["mean"].shape == (reduced,)

  def test_computes_in_its_dtype_with_float32_parameters(self):
    assert_computes_in_bfloat16(CoordinateAttention(dtype=jnp.bfloat16), self.X.shape)


@pytest.fixture(scope="module")
def variables():
  """Returns the initial variables of an attentive classifier."""
  return AttentiveClassifier(K).init(jax.random.key(0), jnp.zeros((1, D)), train=False)


@pytest.fixture
def features():
  return jnp.asarray(np.random.default_rng(0).normal(size=(B, D)), jnp.float32)


class TestAttentiveClassifier:
  EPSILON = 1e-5  # of the normalisation, whose initial statistics are mean 0 and variance 1

  @staticmethod
  @functools.partial(jax.jit, static_argnums=0)
  def evaluate(classifier, variables, features):
    return classifier.apply(variables, features, train=False)

  @staticmethod
  def dense(params, name, x):
    return x @ np.asarray(params[name]["kernel"], float) + np.asarray(params[name]["bias"], float)

  def test_attention_is_the_identity_at_initialization(self, features, variables):
    found = self.evaluate(AttentiveClassifier(K), variables, features)
    normalized = features / np.sqrt(1 + self.EPSILON)
    plain = nn.Dense(K).apply({"params": variables["params"]["Dense_2"]}, normalized)
    np.testing.assert_allclose(found, plain, atol=1e-6)

  def test_training_ignores_scale_and_offset_of_each_feature(self, features, variables):
    train = jax.jit(lambda x: AttentiveClassifier(K).apply(variables, x, train=True, mutable=["batch_stats"])[0])
    scale = jnp.linspace(1.0, 50.0, D)[None]
    np.testing.assert_allclose(train(features * scale + 3), train(features), atol=2e-3)

  def test_scores_have_a_gradient_at_initialization(self, features, variables):
    gradient = jax.grad(lambda v: jnp.sum(self.evaluate(AttentiveClassifier(K), v, features) ** 2))(variables)
    assert jnp.abs(gradient["params"]["Dense_1"]["kernel"]).max() > 0

  @pytest.mark.parametrize(("reduction", "hidden"), [(8, 3), (2, 12), (100, 1)])
  def test_weights_features_by_factors_between_0_and_2(self, features, reduction, hidden):
    classifier = AttentiveClassifier(K, reduction=reduction)
    params, stats = (shapes_of(classifier, features)[k] for k in ("params", "batch_stats"))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    assert params["Dense_0"]["kernel"].shape == (D, hidden)
    stats = {"norm": {"mean": jnp.zeros(stats["norm"]["mean"].shape), "var": jnp.ones(stats["norm"]["var"].shape)}}
    exact = np.asarray(features, float) / np.sqrt(1 + self.EPSILON)
    exact = exact * np.asarray(params["norm"]["scale"], float) + np.asarray(params["norm"]["bias"], float)
    scores = self.dense(params, "Dense_1", np.maximum(self.dense(params, "Dense_0", exact), 0))
    expected = self.dense(params, "Dense_2", exact * 2 * sigmoid(scores))
    found = self.evaluate(classifier, {"params": params, "batch_stats": stats}, features)
    np.testing.assert_allclose(found, expected, atol=1e-4)

  def test_dropout_applies_only_in_training(self, features, variables):
    classifier, without = AttentiveClassifier(K, dropout=0.5), AttentiveClassifier(K)
    expected = self.evaluate(without, variables, features)
    np.testing.assert_array_equal(self.evaluate(classifier, variables, features), expected)
    train = jax.jit(
      lambda key: classifier.apply(variables, features, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]
    )
    plain = jax.jit(lambda: without.apply(variables, features, train=True, mutable=["batch_stats"])[0])()
    dropped = [train(jax.random.key(seed)) for seed in (1, 2)]
    assert np.any(dropped[0] != plain)
    assert np.any(dropped[0] != dropped[1])

  def test_logits_are_float32(self, features):
    classifier = AttentiveClassifier(K, dtype=jnp.bfloat16)
    variables = shapes_of(classifier, features)
    logits = jax.eval_shape(functools.partial(self.evaluate, classifier), variables, features.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

  def test_all_cells_of_a_channel_share_one_score(self):
    cells, channels = 4, 6
    classifier = AttentiveClassifier(K, cells=cells, reduction=2)
    features = jnp.asarray(np.random.default_rng(1).normal(size=(B, cells * channels)), jnp.float32)
    generator = np.random.default_rng(2)
    initial = classifier.init(jax.random.key(0), features, train=False)
    params = jax.tree.map(lambda p: jnp.asarray(generator.normal(size=p.shape), jnp.float32), initial["params"])
    params["norm"] = initial["params"]["norm"]
    found = self.evaluate(classifier, {**initial, "params": params}, features)
    by_cell = np.asarray(features, float).reshape(B, cells, channels) / np.sqrt(1 + self.EPSILON)
    scores = self.dense(params, "Dense_1", np.maximum(self.dense(params, "Dense_0", by_cell.mean(axis=1)), 0))
    weighted = by_cell * (2 * sigmoid(scores))[:, None, :]
    expected = self.dense(params, "Dense_2", weighted.reshape(B, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
