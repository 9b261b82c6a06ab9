"""Local binary patterns: one bit per neighbour on a circle, 1 if it is at least as bright as the centre pixel.

Ojala, Pietikäinen & Mäenpää 2002 (doi:10.1109/TPAMI.2002.1017623). Plain functions without learned parameters.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("default", "ror", "uniform", "nri_uniform")
MAX_NEIGHBOURS = 24  # maximum number of neighbours: float32 represents codes of up to 24 bits exactly
TOLERANCE = 1e-6  # as a fraction of the image's range; about ten times the rounding error of float32


def check_pattern(neighbours: int, radius: float, method: str) -> None:
  """Checks the parameters of a pattern; see `local_binary_pattern`.

  Raises:
    ValueError: A parameter is out of range; the message names it.
  """
  if not 2 <= neighbours <= MAX_NEIGHBOURS:
    raise ValueError(f"neighbours={neighbours}: expected 2 to {MAX_NEIGHBOURS}")
  if not 0 < radius < math.inf:
    raise ValueError(f"radius={radius}: expected a number of pixels above 0")
  if method not in METHODS:
    raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")


def largest_code(neighbours: int, method: str) -> int:
  """Returns the largest code of a method; the smallest is 0. For example P + 1 for "uniform" with P neighbours."""
  return {
    "default": 2**neighbours - 1,
    "ror": 2**neighbours - 1,
    "uniform": neighbours + 1,
    "nri_uniform": neighbours * (neighbours - 1) + 2,
  }[method]


@functools.partial(jax.jit, static_argnames=("neighbours", "radius", "method", "outside"))
def local_binary_pattern(
  image: jax.Array,
  neighbours: int = 8,
  radius: float = 1.0,
  method: str = "uniform",
  outside: float | None = 0.0,
) -> jax.Array:
  """Computes the local binary pattern code of every pixel.

  The codes do not change if brightness is added to the image or its contrast is scaled (`outside` may affect the
  border).

  Neighbour p is `radius` pixels from the pixel, at the angle 2 pi p / P, counter-clockwise from the right, at
  coordinates rounded to five decimals. Between pixels, brightness is interpolated along both axes. Bit p is 1 if the
  neighbour is at least as bright as the pixel. A pattern is uniform if its bits change at most twice around the circle.
  No gradient passes through the codes.

  The function interpolates the differences from the centre pixel, not the brightness: the differences in a flat area
  are then exactly zero for any interpolation weights. Differences down to -TOLERANCE times the image's range count as
  zero, so that rounding of the weighted sum does not break ties. scikit-image has the same codes but interpolates
  brightness in float64 and then compares: there the last bit of the sum decides ties, including those in flat areas
  between pixels.

  Args:
    image: Image of shape [H, W], or batch of shape [B, H, W, C] for the codes of each channel; any real dtype,
      converted to float32.
    neighbours: Number of neighbours P, 2 to MOST.
    radius: Radius of the circle in pixels; need not be an integer.
    method: Coding of the P bits. "default": the bits as a number, p = 0 the lowest. "ror": the smallest number among
      all rotations of the bits. "uniform": the number of ones, 0 to P, for uniform patterns and P + 1 for all others;
      rotation-invariant. "nri_uniform": P (P - 1) + 3 codes, one for each number of ones and rotation of a uniform
      pattern, and one for all others.
    outside: Brightness beyond the border. The default 0, as in scikit-image, is black for images in 0 to 255. None uses
      the minimum of each channel; a standardised image then has the codes of the original, border included.

  Returns:
    uint32 array in the shape of `image`.

  Raises:
    ValueError: The image has neither two nor four axes, or a parameter of the pattern is out of range.
  """
  check_pattern(neighbours, radius, method)
  if image.ndim not in (2, 4):
    raise ValueError(f"image of shape {image.shape}: expected [H, W] or [B, H, W, C]")
  encode = functools.partial(_encode, neighbours=neighbours, radius=radius, method=method, outside=outside)
  if image.ndim == 4:
    # Map over the batch (axis 0), then over the channels (last axis): each call gets one [H, W] plane.
    encode = jax.vmap(jax.vmap(encode, in_axes=-1, out_axes=-1))
  return encode(jax.lax.stop_gradient(image).astype(jnp.float32))


def _encode(image: jax.Array, neighbours: int, radius: float, method: str, outside: float | None) -> jax.Array:
  margin = math.ceil(radius)
  # [H, W] -> [H + 2 margin, W + 2 margin]
  padded = jnp.pad(image, margin, constant_values=image.min() if outside is None else outside)
  # Differences above this threshold count as "at least as bright".
  threshold = -TOLERANCE * (padded.max() - padded.min())
  bits = [_difference(image, padded, margin, y, x) >= threshold for y, x in _circle(neighbours, radius)]
  return _CODES[method]([bit.astype(jnp.uint32) for bit in bits])


def _circle(neighbours: int, radius: float) -> list[tuple[float, float]]:
  """Returns the (row, column) offsets of the neighbours from the centre pixel."""
  angles = 2 * np.pi * np.arange(neighbours) / neighbours
  rows, columns = np.round(-radius * np.sin(angles), 5), np.round(radius * np.cos(angles), 5)
  return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _difference(image: jax.Array, padded: jax.Array, margin: int, y: float, x: float) -> jax.Array:
  """Returns the brightness at offset (y down, x right) of each pixel minus that of the pixel, [H, W]."""
  height, width = image.shape
  difference = jnp.zeros_like(image)
  for row, row_weight in _interpolation(y):
    for column, column_weight in _interpolation(x):
      # View of the padded image shifted by (row, column), [H, W]
      top, left = margin + row, margin + column
      corner = padded[top : top + height, left : left + width]
      difference += (row_weight * column_weight) * (corner - image)
  return difference


def _interpolation(coordinate: float) -> list[tuple[int, float]]:
  """Returns the one or two integer positions around a coordinate, with their interpolation weights."""
  first = math.floor(coordinate)
  share = coordinate - first
  return [(first, 1 - share), (first + 1, share)] if share else [(first, 1.0)]


def _number(bits: Sequence[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.bitwise_or, (bit << p for p, bit in enumerate(bits)))


def _least_rotation(bits: Sequence[jax.Array]) -> jax.Array:
  count = len(bits)
  return functools.reduce(jnp.minimum, (_number([*bits[p:], *bits[:p]]) for p in range(count)))


def _uniform(bits: Sequence[jax.Array]) -> jax.Array:
  return jnp.where(_runs(bits) <= 1, sum(bits), len(bits) + 1).astype(jnp.uint32)


def _uniform_with_rotation(bits: Sequence[jax.Array]) -> jax.Array:
  count = len(bits)
  ones = sum(bits)
  # A uniform pattern has at most one run of ones. A run that starts at bit p > 0 has the rotation P - p; at bit 0, 0.
  rotation = sum(start * (count - p) for p, start in enumerate(_starts(bits)) if p)
  # Codes: 0 for no ones, 1 to P (P - 1) for 1 to P - 1 ones at P rotations, then all ones, then not uniform.
  code = jnp.where(ones == count, count * (count - 1) + 1, 1 + (ones - 1) * count + rotation)
  return jnp.where(_runs(bits) <= 1, jnp.where(ones == 0, 0, code), count * (count - 1) + 2).astype(jnp.uint32)


def _starts(bits: Sequence[jax.Array]) -> list[jax.Array]:
  """Returns, for each bit, whether a run of ones starts there: the preceding bit on the circle is 0."""
  return [bit & (before ^ 1) for before, bit in zip([bits[-1], *bits[:-1]], bits, strict=True)]


def _runs(bits: Sequence[jax.Array]) -> jax.Array:
  """Counts the runs of ones around the circle, which is half the number of bit changes."""
  return functools.reduce(jnp.add, _starts(bits))


_CODES = {
  "default": _number,
  "ror": _least_rotation,
  "uniform": _uniform,
  "nri_uniform": _uniform_with_rotation,
}
