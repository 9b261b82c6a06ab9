"""Attention over channels and places: the equations in float64, and the gates at their ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.attention import ChannelAttention, MixedAttention, SpatialAttention
from tests.layers.variables import random_variables, shapes_of

X = np.random.default_rng(0).normal(0.5, 2, (3, 5, 4, 8)).astype(np.float32)
LAYERS = (ChannelAttention(reduction=4), SpatialAttention(), MixedAttention(reduction=4))


@functools.partial(jax.jit, static_argnums=(0, 3))
def applied(layer, variables, x, train=False):
  return layer.apply(variables, x, train=train)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def in_float64(variables):
  return jax.tree.map(lambda leaf: np.asarray(leaf, float), variables)


def convolve(x, kernel, stride=1):
  """Sums shifted maps times the kernel's slices, zeros around the maps; [B, H, W, I] with [k, k, I, O]."""
  k, (_, height, width, _) = len(kernel), x.shape
  padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  return sum(
    padded[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i in range(k) for j in range(k)
  )


def channel_attention(x, params):
  """Equation 2, and its product with the maps."""

  def mlp(pooled):
    return np.maximum(pooled @ params["reduce"]["kernel"], 0) @ params["expand"]["kernel"]

  return x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]


def spatial_attention(x, params):
  """Equation 3, and its product with the maps."""
  pooled = np.stack([x.mean(-1), x.max(-1)], axis=-1)
  return x * sigmoid(convolve(pooled, params["conv"]["kernel"]))


def mixed_attention(x, params):
  """Figure 5."""
  both = [channel_attention(x, params["channel"]), spatial_attention(x, params["spatial"])]
  fused = np.concatenate(both, axis=-1) @ params["fuse"]["kernel"][0, 0] + params["fuse"]["bias"]
  return np.maximum(x * (1 + fused), 0)


RENDERED = (channel_attention, spatial_attention, mixed_attention)


@pytest.mark.parametrize(("layer", "rendered"), list(zip(LAYERS, RENDERED, strict=True)))
def test_equals_the_equation_in_float64(layer, rendered):
  variables = random_variables(layer, X)
  found = applied(layer, variables, X)
  expected = rendered(X.astype(float), in_float64(variables["params"]))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found, applied(layer, variables, X, True))


def test_sizes_are_those_of_the_settings():
  def found(layer, channels):
    shapes = shapes_of(layer, jnp.zeros((1, 4, 4, channels)))
    return [leaf.shape for leaf in jax.tree.leaves(shapes["params"])]

  assert found(ChannelAttention(), 64) == [(4, 64), (64, 4)]
  assert found(ChannelAttention(reduction=100), 8) == [(1, 8), (8, 1)]
  assert found(SpatialAttention(), 64) == [(7, 7, 2, 1)]
  assert found(SpatialAttention(kernel_size=3), 64) == [(3, 3, 2, 1)]
  assert found(MixedAttention(2, 5), 8) == [(4, 8), (8, 4), (8,), (1, 1, 16, 8), (5, 5, 2, 1)]


@pytest.mark.parametrize("layer", LAYERS[:2])
def test_gates_without_weights_are_a_half(layer):
  nothing = jax.tree.map(jnp.zeros_like, random_variables(layer, X))
  np.testing.assert_array_equal(applied(layer, nothing, X), X / 2)


@pytest.mark.parametrize("layer", LAYERS[:2])
def test_gates_of_large_weights_let_everything_pass_or_nothing(layer):
  positive = np.abs(X) + 1
  large = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100), random_variables(layer, X))
  np.testing.assert_array_equal(applied(layer, large, positive), positive)
  last = "expand" if "expand" in large["params"] else "conv"
  large["params"][last]["kernel"] *= -1
  np.testing.assert_allclose(applied(layer, large, positive), np.zeros_like(positive), atol=1e-30)


def test_mixed_attention_whose_fusion_is_one_is_the_activation_alone():
  layer = LAYERS[2]
  variables = random_variables(layer, X)
  variables["params"]["fuse"] = jax.tree.map(jnp.zeros_like, variables["params"]["fuse"])
  np.testing.assert_array_equal(applied(layer, variables, X), np.maximum(X, 0))


def test_the_channel_attention_ignores_where_and_the_spatial_attention_which():
  channel, spatial, _ = LAYERS
  variables = random_variables(channel, X)
  turned = applied(channel, variables, X[:, ::-1, ::-1])
  np.testing.assert_allclose(turned, applied(channel, variables, X)[:, ::-1, ::-1], rtol=1e-6)
  variables = random_variables(spatial, X)
  mixed = applied(spatial, variables, X[..., ::-1])
  np.testing.assert_allclose(mixed, applied(spatial, variables, X)[..., ::-1], rtol=1e-6)


def test_every_gate_can_be_learned_from_the_start():
  layer = LAYERS[2]

  @jax.jit
  def gradient(key):
    return jax.grad(lambda v: jnp.sum(layer.apply(v, X, train=True) ** 2))(layer.init(key, X, train=False))

  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient(jax.random.key(0))))


@pytest.mark.parametrize("layer", LAYERS)
def test_computes_in_the_dtype_on_float32_parameters(layer):
  layer = layer.copy(dtype=jnp.bfloat16)
  maps = jax.ShapeDtypeStruct(X.shape, jnp.bfloat16)
  variables = shapes_of(layer, maps)
  assert jax.eval_shape(functools.partial(layer.apply, train=False), variables, maps).dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
