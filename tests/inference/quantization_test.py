"""Quantized weights: rounding errors, unchanged arrays, sizes, and logits of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.inference.quantization import Quantized, cast, dequantize, num_bytes, quantize
from fer_jax.models.resnet import CifarResNet
from tests.layers.variables import drawn


def make_kernel(*shape):
  """Returns a kernel whose channels differ in magnitude by many orders."""
  kernel = np.random.default_rng(0).normal(size=shape) * np.logspace(-6, 3, shape[-1])
  return jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize("shape", [(3, 3, 16, 24), (3, 3, 1, 256), (300, 7)])
def test_rounding_error_is_at_most_half_the_scale(shape):
  kernel = make_kernel(*shape)
  quantized = jax.jit(quantize)(kernel)
  inputs = tuple(range(len(shape) - 1))
  assert quantized.values.dtype == jnp.int8
  assert (quantized.scale.shape, quantized.scale.dtype) == ((*[1] * len(inputs), shape[-1]), jnp.float32)
  np.testing.assert_allclose(quantized.scale, np.abs(kernel).max(inputs, keepdims=True) / 127, rtol=1e-6)
  rounding_error = np.abs(np.asarray(kernel, np.float64) - np.asarray(dequantize(quantized), np.float64))
  assert (rounding_error <= quantized.scale * (0.5 + 1e-4)).all()
  # Every channel uses the whole range of int8 except -128.
  assert (np.abs(quantized.values.astype(np.int32)).max(inputs) == 127).all()


def test_zero_channels_stay_zero_and_non_finite_ones_become_nan():
  with jax.debug_nans(True):
    assert not quantize(jnp.zeros((64, 32))).values.any()
  kernel = make_kernel(64, 32).at[:, 1].set(0).at[3, 2].set(jnp.nan).at[3, 4].set(jnp.inf)
  found = dequantize(quantize(kernel))
  assert (found[:, 1] == 0).all()
  assert np.isnan(found[:, (2, 4)]).all()
  assert np.isfinite(np.delete(found, (2, 4), axis=1)).all()


def test_changes_only_large_kernels():
  params = {
    "conv": {"kernel": make_kernel(3, 3, 8, 16), "bias": jnp.ones(2048)},
    "small": [make_kernel(3, 3, 1, 8), (jnp.ones((40, 40), jnp.int32),)],
  }
  for change in (quantize, cast):
    found = change(params)
    assert found["conv"]["bias"] is params["conv"]["bias"]
    assert found["small"][0] is params["small"][0]
    assert found["small"][1][0] is params["small"][1][0]
  assert isinstance(quantize(params)["conv"]["kernel"], Quantized)
  assert cast(params)["conv"]["kernel"].dtype == jnp.bfloat16
  assert isinstance(quantize(params, min_size=72)["small"][0], Quantized)
  assert cast(params, jnp.float16, min_size=73)["small"][0].dtype == jnp.float32


@pytest.mark.parametrize("change", [quantize, cast])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dequantize_returns_the_requested_dtype(change, dtype):
  params = {"conv": {"kernel": make_kernel(3, 3, 8, 16), "bias": jnp.ones(16)}}
  found = dequantize(change(params), dtype)
  assert jax.tree.structure(found) == jax.tree.structure(params)
  assert found["conv"]["kernel"].dtype == dtype
  assert found["conv"]["bias"].dtype == jnp.float32


def test_num_bytes_includes_the_scales():
  params = {"conv": {"kernel": make_kernel(3, 3, 8, 16), "bias": jnp.ones(16)}}
  numbers = 3 * 3 * 8 * 16
  assert num_bytes(params) == 4 * numbers + 4 * 16
  assert num_bytes(cast(params)) == 2 * numbers + 4 * 16
  assert num_bytes(jax.eval_shape(quantize, params)) == numbers + 4 * 16 + 4 * 16


@pytest.fixture(scope="module")
def network():
  """Logits of a small network as a function of its parameters, and its parameters."""
  network = CifarResNet(8).build(7, jnp.float32, None)
  image = jax.random.normal(jax.random.key(0), (4, 16, 16, 1))
  params, stats = drawn(jax.eval_shape(network.init, jax.random.key(0), image))
  run = jax.jit(lambda weights: network.apply(dequantize(weights), stats, image)[0].logits)
  return run, params


@pytest.mark.parametrize(("change", "share", "error"), [(quantize, 0.3, 0.02), (cast, 0.53, 0.01)])
def test_logits_stay_close(network, change, share, error):
  run, params = network
  weights = change(params)
  assert num_bytes(weights) < share * num_bytes(params)
  logits = run(params)
  difference = np.abs(run(weights) - logits).max()
  assert 0 < difference < error * np.abs(logits).max()
