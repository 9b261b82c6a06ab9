"""Where pixels come from: one image shifted, rotated, magnified, cropped. Pure functions, to be mapped over a batch."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def shifted(image: jax.Array, offset: jax.Array, largest: int) -> jax.Array:
  """Moves an image [H, W, C] by offset = (down, right) pixels, each within +-largest; the border repeats."""
  padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
  start = largest - offset
  return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def warped(
  image: jax.Array, degrees: jax.Array | float, zoom: jax.Array | float, share: jax.Array | float, place: jax.Array
) -> jax.Array:
  """Rotates an image, magnifies it, cuts a window out and resizes that to the image, in one bilinear interpolation.

  Args:
    image: [H, W, C]; beyond its border, the border repeats.
    degrees: counter-clockwise, about the centre.
    zoom: magnification about the centre, above 0.
    share: of the area that the window keeps, above 0, at most 1; the window has the image's aspect.
    place: [2], of the window: -1 at the top (left), 0 in the middle, 1 at the bottom (right).

  Returns:
    float32 [H, W, C]; the image itself where nothing is asked for.
  """
  height, width, _ = image.shape
  middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
  side = jnp.sqrt(share)
  # Where each pixel of the result lies in the image, from its middle: first within the window, then turned and shrunk.
  down = side * (jnp.arange(height) - middle_row) + place[0] * (1 - side) * height / 2
  right = side * (jnp.arange(width) - middle_column) + place[1] * (1 - side) * width / 2
  angle = jnp.deg2rad(degrees)
  cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  row = cosine * down[:, None] + sine * right[None, :] + middle_row
  column = cosine * right[None, :] - sine * down[:, None] + middle_column

  def interpolated(channel: jax.Array) -> jax.Array:
    return map_coordinates(channel, [row, column], order=1, mode="nearest")

  return jax.vmap(interpolated, in_axes=2, out_axes=2)(image.astype(jnp.float32))


def rotated(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
  """Rotates an image [H, W, C] counter-clockwise about its centre; float32, bilinear, the border repeats."""
  return warped(image, degrees, 1.0, 1.0, jnp.zeros(2))


def zoomed(image: jax.Array, zoom: jax.Array | float) -> jax.Array:
  """Magnifies an image [H, W, C] about its centre, below 1 shrinks it; float32, bilinear, the border repeats."""
  return warped(image, 0.0, zoom, 1.0, jnp.zeros(2))


def cropped(image: jax.Array, share: jax.Array | float, place: jax.Array) -> jax.Array:
  """Resizes a window of an image to the whole [H, W, C]; share and place as in `warped`; float32, bilinear."""
  return warped(image, 0.0, 1.0, share, place)
