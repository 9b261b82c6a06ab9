"""Attention along the axes: the definition in float64, the gates at their ends, what a gate may depend on."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.attention import CoordinateAttention
from tests.layers.attention_test import in_float64, sigmoid
from tests.layers.variables import random_variables, shapes_of

X = np.random.default_rng(0).normal(0.5, 2, (3, 5, 4, 16)).astype(np.float32)
ACTIVATIONS = {nn.hard_swish: lambda x: x * np.clip(x + 3, 0, 6) / 6, nn.relu: lambda x: np.maximum(x, 0)}
GATES = ("rows", "columns")


@functools.partial(jax.jit, static_argnums=(0, 3))
def applied(layer, variables, x, train=False):
  """Returns the maps and the new statistics."""
  maps, updates = layer.apply(variables, x, train=train, mutable=["batch_stats"])
  return maps, updates["batch_stats"]["norm"]


def coordinate_attention(x, variables, train, activation=ACTIVATIONS[nn.hard_swish]):
  """Hou et al. 2021, equations 4 to 9, row by row and column by column."""
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


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=["hard_swish", "relu"])
def test_equals_the_definition_in_float64(activation, train):
  layer = CoordinateAttention(2, activation)
  variables = random_variables(layer, X)
  assert variables["params"]["reduce"]["kernel"].shape == (16, 8)
  found, _ = applied(layer, variables, X, train)
  expected = coordinate_attention(X.astype(float), in_float64(variables), train, ACTIVATIONS[activation])
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_statistics_are_those_of_rows_and_columns_and_change_in_training_alone():
  layer = CoordinateAttention()
  variables = random_variables(layer, X)
  stats = variables["batch_stats"]["norm"]
  vectors = np.concatenate([X.mean(2), X.mean(1)], axis=1) @ np.asarray(variables["params"]["reduce"]["kernel"])
  _, kept = applied(layer, variables, X)
  assert jax.tree.all(jax.tree.map(np.array_equal, kept, stats))
  _, moved = applied(layer, variables, X, True)
  for name, batch in (("mean", vectors.mean((0, 1))), ("var", vectors.var((0, 1)))):
    expected = 0.9 * stats[name] + 0.1 * batch
    np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-5)


def test_the_statistics_are_those_of_all_devices():
  layer = CoordinateAttention(axis_name="devices")
  variables = random_variables(layer, X)
  found, _ = jax.vmap(lambda x: applied(layer, variables, x, True), axis_name="devices")(X[:, None])
  expected, _ = applied(CoordinateAttention(), variables, X, True)
  np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias", "factor"), [(1e3, 1), (0, 0.25), (-1e3, 0)])
def test_gates_whose_bias_alone_counts(bias, factor):
  layer = CoordinateAttention()
  variables = random_variables(layer, X)
  for name in GATES:
    variables["params"][name] = {"kernel": jnp.zeros((8, 16)), "bias": jnp.full(16, bias)}
  np.testing.assert_array_equal(applied(layer, variables, X)[0], X * factor)


@pytest.mark.parametrize(("name", "axis"), [("rows", 2), ("columns", 1)])
def test_a_gate_is_one_for_its_row_or_its_column(name, axis):
  layer = CoordinateAttention()
  variables = random_variables(layer, X)
  other = GATES[1 - GATES.index(name)]
  variables["params"][other] = {"kernel": jnp.zeros((8, 16)), "bias": jnp.full(16, 1e3)}
  gates = np.asarray(applied(layer, variables, X)[0]) / X
  np.testing.assert_allclose(np.ptp(gates, axis=axis), 0, atol=1e-5)
  assert np.ptp(gates, axis=3 - axis).min() > 1e-4


@pytest.mark.parametrize(("channels", "reduction", "reduced"), [(512, 32, 16), (256, 32, 8), (64, 32, 8), (64, 2, 32)])
def test_has_the_parameters_of_its_three_matrices(channels, reduction, reduced):
  shapes = shapes_of(CoordinateAttention(reduction), jnp.zeros((1, 3, 2, channels)))
  counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  assert counted == 3 * channels * reduced + 2 * channels + 2 * reduced
  assert shapes["batch_stats"]["norm"]["mean"].shape == (reduced,)


def test_computes_in_the_dtype_on_float32_parameters():
  layer = CoordinateAttention(dtype=jnp.bfloat16)
  maps = jax.ShapeDtypeStruct(X.shape, jnp.bfloat16)
  variables = shapes_of(layer, maps)
  assert jax.eval_shape(functools.partial(layer.apply, train=False), variables, maps).dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
