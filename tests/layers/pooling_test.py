import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.pooling import adaptive_average_pool, read_out, upsample


def reference(x, grid):
  """Averages cell by cell, in float64."""
  batch, height, width, channels = x.shape
  rows, columns = min(height, grid), min(width, grid)
  pooled = np.zeros((batch, rows, columns, channels))
  for i in range(rows):
    top, bottom = i * height // rows, -(-(i + 1) * height // rows)
    for j in range(columns):
      left, right = j * width // columns, -(-(j + 1) * width // columns)
      pooled[:, i, j] = x[:, top:bottom, left:right].astype(float).mean(axis=(1, 2))
  return pooled


@pytest.mark.parametrize(
  ("height", "width", "grid"),
  [(12, 12, 6), (12, 6, 3), (7, 7, 3), (7, 12, 6), (12, 7, 5), (4, 4, 6), (3, 12, 6), (5, 5, 5), (8, 5, 1), (1, 1, 1)],
)
def test_matches_float64(height, width, grid):
  x = np.random.default_rng(0).normal(3, 1, (2, height, width, 4)).astype(np.float32)
  found = adaptive_average_pool(jnp.asarray(x), grid)
  expected = reference(x, grid)
  assert (found.shape, found.dtype) == (expected.shape, jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [12, 7])
def test_bfloat16_is_summed_in_float32(size):
  x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (2, size, size, 3)), jnp.bfloat16)
  found = adaptive_average_pool(x, 3)
  assert found.dtype == jnp.bfloat16
  exact = reference(np.asarray(x, np.float32), 3)
  np.testing.assert_array_equal(found, jnp.asarray(exact, jnp.bfloat16))


@pytest.mark.parametrize(("size", "grid"), [(6, 3), (7, 3), (2, 3)])
def test_gradient_of_each_cell_is_spread_evenly(size, grid):
  x = jnp.zeros((1, size, size, 1))
  weights = np.random.default_rng(0).normal(size=(1, min(size, grid), min(size, grid), 1)).astype(np.float32)
  gradient = jax.grad(lambda x: jnp.sum(weights * adaptive_average_pool(x, grid)))(x)
  expected = np.zeros((size, size))
  for i in range(size):
    for j in range(size):
      unit = np.zeros((1, size, size, 1))
      unit[0, i, j] = 1
      expected[i, j] = (weights * reference(unit, grid)).sum()
  np.testing.assert_allclose(gradient[0, ..., 0], expected, atol=1e-6)


def test_read_out_flattens_a_grid_of_cells_row_by_row():
  x = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
  np.testing.assert_allclose(read_out(x), x.mean(axis=(1, 2)), rtol=1e-6)
  np.testing.assert_allclose(read_out(x, 2)[:, :3], x[:, :2, :2].mean(axis=(1, 2)), rtol=1e-6)
  np.testing.assert_array_equal(read_out(x, 9), x.reshape(2, -1))
  with pytest.raises(ValueError, match="the image is too small: the last feature map is 0x3"):
    read_out(jnp.zeros((1, 0, 3, 2)))


@pytest.mark.parametrize("size", [(3, 3), (6, 3), (9, 15), (7, 6), (7, 7)])
def test_upsampling_equals_nearest_neighbours(size):
  maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), jnp.float32)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, *size, 4)), jnp.float32)
  found, pull_back = jax.vjp(lambda x: upsample(x, *size), maps)
  # With half-pixel centres, output i reads input floor((i + 0.5) / scale).
  rows, columns = (np.int32((np.arange(length) + 0.5) * 3 / length) for length in size)
  np.testing.assert_array_equal(found, maps[:, rows][:, :, columns])
  expected = np.zeros(maps.shape)
  np.add.at(expected, np.ix_(range(2), rows, columns, range(4)), np.asarray(weights, float))
  np.testing.assert_allclose(pull_back(weights)[0], expected, atol=1e-5)
