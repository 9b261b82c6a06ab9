import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.pooling import adaptive_average_pool


def reference(maps, grid):
  """Cell by cell, in float64."""
  batch, height, width, channels = maps.shape
  rows, columns = min(height, grid), min(width, grid)
  pooled = np.zeros((batch, rows, columns, channels))
  for i in range(rows):
    top, bottom = i * height // rows, -(-(i + 1) * height // rows)
    for j in range(columns):
      left, right = j * width // columns, -(-(j + 1) * width // columns)
      pooled[:, i, j] = maps[:, top:bottom, left:right].astype(float).mean(axis=(1, 2))
  return pooled


@pytest.mark.parametrize(
  ("height", "width", "grid"),
  [(12, 12, 6), (12, 6, 3), (7, 7, 3), (7, 12, 6), (12, 7, 5), (4, 4, 6), (3, 12, 6), (5, 5, 5), (8, 5, 1), (1, 1, 1)],
)
def test_equals_float64_cell_by_cell(height, width, grid):
  maps = np.random.default_rng(0).normal(3, 1, (2, height, width, 4)).astype(np.float32)
  found = adaptive_average_pool(jnp.asarray(maps), grid)
  expected = reference(maps, grid)
  assert (found.shape, found.dtype) == (expected.shape, jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [12, 7])
def test_bfloat16_is_summed_in_float32(size):
  maps = jnp.asarray(np.random.default_rng(0).normal(100, 1, (2, size, size, 3)), jnp.bfloat16)
  found = adaptive_average_pool(maps, 3)
  assert found.dtype == jnp.bfloat16
  exact = reference(np.asarray(maps, np.float32), 3)
  np.testing.assert_array_equal(found, jnp.asarray(exact, jnp.bfloat16))


@pytest.mark.parametrize(("size", "grid"), [(6, 3), (7, 3), (2, 3)])
def test_gradient_spreads_each_cell_evenly(size, grid):
  maps = jnp.zeros((1, size, size, 1))
  weights = np.random.default_rng(0).normal(size=(1, min(size, grid), min(size, grid), 1)).astype(np.float32)
  gradient = jax.grad(lambda m: jnp.sum(weights * adaptive_average_pool(m, grid)))(maps)
  expected = np.zeros((size, size))
  for i in range(size):
    for j in range(size):
      unit = np.zeros((1, size, size, 1))
      unit[0, i, j] = 1
      expected[i, j] = (weights * reference(unit, grid)).sum()
  np.testing.assert_allclose(gradient[0, ..., 0], expected, atol=1e-6)
