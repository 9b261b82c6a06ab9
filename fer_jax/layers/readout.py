"""From the last map to the features that fully connected layers read."""

import jax

from fer_jax.layers.pooling import adaptive_average_pool


def read_out(maps: jax.Array, grid: int = 1) -> jax.Array:
  """Averages maps over a grid of cells, and lays each image's cells in a row.

  Args:
    maps: [B, H, W, C].
    grid: cells along each axis; 1 is global average pooling.

  Returns:
    [B, min(H, grid) min(W, grid) C], in the dtype of the maps.

  Raises:
    ValueError: the strides before it have left nothing of the image.
  """
  batch, height, width, _ = maps.shape
  if min(height, width) < 1:
    raise ValueError(f"the image is too small: the last map is {height}x{width}; larger images or smaller strides help")
  return adaptive_average_pool(maps, grid).reshape(batch, -1)
