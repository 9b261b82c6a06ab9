"""Readout: turns the last feature map into the feature vector that the fully connected layers take."""

import jax

from fer_jax.layers.pooling import adaptive_average_pool


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
