"""Intensity augmentations of one image: gamma, contrast, brightness, noise, erasing. Pure functions, as in `warp`."""

import jax
import jax.numpy as jnp


def gamma_corrected(image: jax.Array, gamma: jax.Array | float) -> jax.Array:
  """Applies gamma correction, 255 (x / 255)^gamma.

  Args:
    image: Image with values of 0 to 255, any dtype; values outside are clipped.
    gamma: Exponent; values above 1 darken the image.

  Returns:
    float32 with values of 0 to 255, in the shape of the image.
  """
  return 255 * (jnp.clip(image.astype(jnp.float32), 0, 255) / 255) ** gamma


def contrasted(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Scales the distance of each intensity from the image's mean by 1 + change; returns float32, not clipped."""
  image = image.astype(jnp.float32)
  mean = image.mean()
  return mean + (image - mean) * (1 + change)


def brightened(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Multiplies all intensities by 1 + change; returns float32, not clipped."""
  return image.astype(jnp.float32) * (1 + change)


def noised(image: jax.Array, variance: jax.Array | float, key: jax.Array) -> jax.Array:
  """Adds independent Gaussian noise to each pixel and channel.

  Args:
    image: Image with values of 0 to 255, any dtype.
    variance: Variance of the noise for intensities scaled to 0..1, float scalar.
    key: PRNG key.

  Returns:
    float32 in the shape of the image, not clipped.
  """
  return image.astype(jnp.float32) + 255 * jnp.sqrt(variance) * jax.random.normal(key, image.shape)


def erased(
  image: jax.Array, area: jax.Array | float, aspect: jax.Array | float, place: jax.Array, fill: jax.Array
) -> jax.Array:
  """Replaces one rectangle of an image (Zhong et al., Random Erasing, arXiv:1708.04896).

  Args:
    image: Image, [H, W, C], any dtype.
    area: Share of the image's area, 0 to 1; the rectangle has this area up to half a row or column.
    aspect: Height divided by width, in pixels. A rectangle that does not fit into the image gets the nearest aspect
      ratio that fits, which preserves the area (the paper draws again instead).
    place: Position of the rectangle, float [2]: 0 at the top (left), up to 1 at the bottom (right).
    fill: Replacement values, [H, W, C].

  Returns:
    Image, [H, W, C], in the dtype of `image`.
  """
  height, width, _ = image.shape
  pixels = jnp.asarray(area * height * width, jnp.float32)
  # At least the height at which the rectangle is as wide as the image; at most the height of the image.
  tall = jnp.clip(jnp.sqrt(pixels * aspect), jnp.minimum(pixels / width, height), height)
  rows = jnp.clip(jnp.round(tall), 1, height)
  columns = jnp.minimum(jnp.round(pixels / rows), width)
  # If `place` is uniform, all possible positions are equally likely.
  top = jnp.minimum(jnp.floor(place[0] * (height - rows + 1)), height - rows)
  left = jnp.minimum(jnp.floor(place[1] * (width - columns + 1)), width - columns)
  # [H, 1, 1] and [1, W, 1]: the mask is [H, W, 1] and broadcasts over the channels.
  row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
  inside = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
  return jnp.where(inside, fill.astype(image.dtype), image)
