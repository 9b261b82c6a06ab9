"""What intensities become: one image changed pixel by pixel, or in part erased. Pure functions, as in `warp`."""

import jax
import jax.numpy as jnp


def gamma_corrected(image: jax.Array, gamma: jax.Array | float) -> jax.Array:
  """Raises the intensities of an image, 0 to 255, as shares of 255 to the power of gamma; float32, 0 to 255."""
  return 255 * (jnp.clip(image.astype(jnp.float32), 0, 255) / 255) ** gamma


def contrasted(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Stretches intensities about the image's mean by a factor of 1 + change; float32, not clipped."""
  image = image.astype(jnp.float32)
  mean = image.mean()
  return mean + (image - mean) * (1 + change)


def brightened(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Multiplies intensities by 1 + change; float32, not clipped."""
  return image.astype(jnp.float32) * (1 + change)


def noised(image: jax.Array, variance: jax.Array | float, key: jax.Array) -> jax.Array:
  """Adds Gaussian noise, its variance on the scale where 255 is 1, to each pixel and channel; float32, not clipped."""
  return image.astype(jnp.float32) + 255 * jnp.sqrt(variance) * jax.random.normal(key, image.shape)


def erased(
  image: jax.Array, area: jax.Array | float, aspect: jax.Array | float, place: jax.Array, fill: jax.Array
) -> jax.Array:
  """Replaces one rectangle of an image (Zhong et al., Random Erasing, arXiv:1708.04896).

  Args:
    image: [H, W, C].
    area: share of the image's area, 0 to 1, met to within half a row or column.
    aspect: height over width in pixels; what does not fit into the image gets the nearest that does, so that the
      area is the one asked for (the paper draws again instead).
    place: [2], of the rectangle: 0 at the top (left), up to 1 at the bottom (right).
    fill: [H, W, C], what replaces the image there.

  Returns:
    [H, W, C] in the dtype of the image.
  """
  height, width, _ = image.shape
  pixels = jnp.asarray(area * height * width, jnp.float32)
  tall = jnp.clip(jnp.sqrt(pixels * aspect), jnp.minimum(pixels / width, height), height)
  rows = jnp.clip(jnp.round(tall), 1, height)
  columns = jnp.minimum(jnp.round(pixels / rows), width)
  # Each of the possible places is as likely, where place is uniform.
  top = jnp.minimum(jnp.floor(place[0] * (height - rows + 1)), height - rows)
  left = jnp.minimum(jnp.floor(place[1] * (width - columns + 1)), width - columns)
  row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
  inside = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
  return jnp.where(inside, fill.astype(image.dtype), image)
