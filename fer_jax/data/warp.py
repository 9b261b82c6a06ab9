"""Geometric augmentations of one image: shift, rotation, scale and crop. Pure functions, to be mapped over a batch."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def shifted(image: jax.Array, offset: jax.Array, largest: int) -> jax.Array:
  """Shifts an image; pixels from outside the image repeat the border.

  Args:
    image: Image, [H, W, C], any dtype.
    offset: Displacement (down, right) in pixels, int [2], each within +-largest.
    largest: Maximum displacement in pixels.

  Returns:
    Shifted image, in the shape and dtype of `image`.
  """
  # A slice of the padded image has a static shape, although `offset` is traced.
  padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
  start = largest - offset
  return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def warped(
  image: jax.Array, degrees: jax.Array | float, zoom: jax.Array | float, share: jax.Array | float, place: jax.Array
) -> jax.Array:
  """Rotates an image, magnifies it and resizes a window of it to the size of the image, in one bilinear interpolation.

  Args:
    image: Image, [H, W, C]; outside the image, the border repeats.
    degrees: Counter-clockwise angle of the rotation about the centre.
    zoom: Magnification about the centre, above 0.
    share: Share of the area that the window keeps, above 0 and at most 1; the window has the aspect ratio of the image.
    place: Position of the window, float [2]: -1 at the top (left), 0 in the middle, 1 at the bottom (right).

  Returns:
    float32 [H, W, C]; equal to the image for degrees 0, zoom 1 and share 1.
  """
  height, width, _ = image.shape
  middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
  side = jnp.sqrt(share)
  # Source position of each pixel of the result, relative to the centre of the image: first within the window (down [H],
  # right [W]), then rotated and divided by the zoom (row, column [H, W]).
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
  """Magnifies an image [H, W, C] about its centre (shrinks it below 1); float32, bilinear, the border repeats."""
  return warped(image, 0.0, zoom, 1.0, jnp.zeros(2))


def cropped(image: jax.Array, share: jax.Array | float, place: jax.Array) -> jax.Array:
  """Resizes a window of an image [H, W, C] to the size of the image; `share` and `place` as in `warped`."""
  return warped(image, 0.0, 1.0, share, place)
