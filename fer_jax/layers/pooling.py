"""Average pooling of feature maps of any size to a fixed grid, and upsampling of small ones."""

import jax
import jax.numpy as jnp
import numpy as np


def adaptive_average_pool(maps: jax.Array, grid: int) -> jax.Array:
  """Averages feature maps over a grid of cells, as PyTorch's adaptive average pooling does.

  Cell i of an axis of length n covers the positions from floor(i n / grid) up to, but not including,
  ceil((i + 1) n / grid). An axis that is no longer than the grid is returned unchanged.

  Args:
    maps: Feature maps of shape [B, H, W, C].
    grid: Number of cells along each axis.

  Returns:
    Array of shape [B, min(H, grid), min(W, grid), C], in the dtype of `maps`.
  """
  batch, height, width, channels = maps.shape
  rows, columns = min(height, grid), min(width, grid)
  if height % rows == 0 and width % columns == 0:
    # Cells of equal size: a reshape and a mean, cheaper than the matrix products below.
    # [B, H, W, C] -> [B, rows, H/rows, columns, W/columns, C] -> [B, rows, columns, C]
    cells = maps.reshape(batch, rows, height // rows, columns, width // columns, channels)
    return cells.mean(axis=(2, 4), dtype=jnp.float32).astype(maps.dtype)
  # Cells of unequal size: one averaging matrix per axis. [B, H, W, C] -> [B, rows, columns, C]
  pooled = jnp.einsum("bhwc,ph,qw->bpqc", maps, _averages(height, rows), _averages(width, columns))
  return pooled.astype(maps.dtype)


def _averages(length: int, cells: int) -> np.ndarray:
  """Returns the float32 [cells, length] matrix whose row i averages the positions of cell i along one axis."""
  matrix = np.zeros((cells, length), np.float32)
  for cell in range(cells):
    # floor(i n / cells) and ceil((i + 1) n / cells): neighbouring cells may overlap by one position.
    start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
    matrix[cell, start:stop] = 1 / (stop - start)
  return matrix


def upsample(maps: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes feature maps [B, h, w, C] to [B, height, width, C] with the value of the nearest position."""
  batch, rows, columns, channels = maps.shape
  shape = (batch, height, width, channels)
  if height % rows or width % columns:
    return jax.image.resize(maps, shape, "nearest")
  # The same as above without its gather, whose derivative is a scatter into an array of zeros. [B, h, 1, w, 1, C]
  cells = maps[:, :, None, :, None]
  return jnp.broadcast_to(cells, (batch, rows, height // rows, columns, width // columns, channels)).reshape(shape)


def read_out(maps: jax.Array, grid: int = 1) -> jax.Array:
  """Averages feature maps over a grid of cells and flattens the grid of each image into one vector.

  Args:
    maps: Feature maps of shape [B, H, W, C].
    grid: Number of cells along each axis; 1 is global average pooling.

  Returns:
    Array of shape [B, min(H, grid) * min(W, grid) * C], in the dtype of `maps`.

  Raises:
    ValueError: The feature map is empty because the strides before it reduced the image to nothing.
  """
  batch, height, width, _ = maps.shape
  if min(height, width) < 1:
    raise ValueError(
      f"the image is too small: the last feature map is {height}x{width}; use larger images or smaller strides"
    )
  # [B, H, W, C] -> [B, rows, columns, C] -> [B, rows*columns*C]
  return adaptive_average_pool(maps, grid).reshape(batch, -1)
