"""Bilinear pooling: comparison with its equations in float64, and gradients at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.bilinear_pooling import bilinear_pool, l2_normalize, signed_sqrt


def feature_maps(channels, seed, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=(2, 3, 4, channels)).astype(dtype)


def test_sums_the_outer_products_over_all_positions():
  a, b = feature_maps(3, 0), feature_maps(5, 1)
  expected = np.zeros((2, 3, 5))
  for n in range(2):
    for y in range(3):
      for x in range(4):
        expected[n] += np.outer(a[n, y, x].astype(np.float64), b[n, y, x])  # eq. 1 and 2
  np.testing.assert_allclose(bilinear_pool(a, b), expected.reshape(2, 15), rtol=1e-5, atol=1e-6)


def test_ignores_the_order_of_positions():
  a, b = feature_maps(3, 0), feature_maps(5, 1)
  shuffle = np.random.default_rng(2).permutation(12)
  shuffled = [x.reshape(2, 12, -1)[:, shuffle].reshape(x.shape) for x in (a, b)]
  np.testing.assert_allclose(bilinear_pool(*shuffled), bilinear_pool(a, b), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_summed_in_float32():
  a = jnp.full((1, 40, 40, 1), 1.0, jnp.bfloat16)
  pooled = bilinear_pool(a, a)
  assert pooled.dtype == jnp.float32
  assert pooled[0, 0] == 1600  # bfloat16 sums of ones stop at 256


def test_signed_sqrt_keeps_the_sign():
  x = np.array([-49.0, -4.0, -1e-2, 0.0, 1e-2, 4.0, 1e4], np.float32)
  np.testing.assert_allclose(signed_sqrt(x), np.sign(x) * np.sqrt(np.abs(x)), rtol=1e-3)
  np.testing.assert_allclose(signed_sqrt(-x), -signed_sqrt(x))


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, 1e-5, 30.0])
def test_signed_sqrt_gradient_equals_finite_differences(value):
  slope = jax.grad(signed_sqrt)(value)
  step = 1e-9
  f = lambda x: x / np.sqrt(np.abs(x) + 1e-5)  # noqa: E731
  np.testing.assert_allclose(slope, (f(value + step) - f(value - step)) / (2 * step), rtol=1e-3)


def test_l2_normalize_gives_unit_rows():
  x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
  np.testing.assert_allclose(l2_normalize(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-5)


def test_gradient_is_finite_for_features_of_zero():
  def loss(x):
    return jnp.sum(l2_normalize(signed_sqrt(bilinear_pool(x, x))) ** 2)

  value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 2, 2, 3)))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
