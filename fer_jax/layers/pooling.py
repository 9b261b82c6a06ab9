"""Average pooling to a fixed grid, for maps of any size."""

import jax
import jax.numpy as jnp
import numpy as np


def adaptive_average_pool(maps: jax.Array, grid: int) -> jax.Array:
  """Averages maps over a grid of cells, as PyTorch's adaptive pooling does.

  Cell i of an axis of length n covers floor(i n / grid) up to ceil((i + 1) n / grid); an axis that is no longer
  than the grid is left as it is.

  Args:
    maps: [B, H, W, C].
    grid: cells along each axis.

  Returns:
    [B, min(H, grid), min(W, grid), C], in the dtype of the maps.
  """
  batch, height, width, channels = maps.shape
  rows, columns = min(height, grid), min(width, grid)
  if height % rows == 0 and width % columns == 0:  # the common case, and the cheaper one
    cells = maps.reshape(batch, rows, height // rows, columns, width // columns, channels)
    return cells.mean(axis=(2, 4), dtype=jnp.float32).astype(maps.dtype)
  pooled = jnp.einsum("bhwc,ph,qw->bpqc", maps, _averages(height, rows), _averages(width, columns))
  return pooled.astype(maps.dtype)


def _averages(length: int, cells: int) -> np.ndarray:
  """Returns the float32 [cells, length] matrix whose rows average the cells of one axis."""
  matrix = np.zeros((cells, length), np.float32)
  for cell in range(cells):
    start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
    matrix[cell, start:stop] = 1 / (stop - start)
  return matrix
