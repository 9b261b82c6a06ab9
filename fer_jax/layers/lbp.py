"""Local binary patterns: which neighbours on a circle are at least as bright as the pixel in its middle.

Ojala, Pietikäinen & Mäenpää 2002 (doi:10.1109/TPAMI.2002.1017623). Plain functions, nothing is learned.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("default", "ror", "uniform", "nri_uniform")
MOST = 24  # neighbours: codes of so many bits are whole numbers in float32
TOLERANCE = 1e-6  # of the range of an image, some ten times the rounding of float32


def check_pattern(neighbours: int, radius: float, method: str) -> None:
  """Raises ValueError for a pattern that there is not, naming what is wrong with it."""
  if not 2 <= neighbours <= MOST:
    raise ValueError(f"neighbours={neighbours}: expected 2 to {MOST}")
  if not 0 < radius < math.inf:
    raise ValueError(f"radius={radius}: expected pixels, above 0")
  if method not in METHODS:
    raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")


def largest_code(neighbours: int, method: str) -> int:
  """Returns the largest of the codes, which begin with 0: P + 1 for "uniform", with P neighbours."""
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
  """Returns the code of every pixel; the same for a brighter image, or one with more contrast.

  Neighbour p stands `radius` from the pixel at the angle 2 pi p / P, counter-clockwise from the right, at coordinates
  rounded to five decimals; between pixels, brightness is interpolated along both axes. Bit p is 1 where the neighbour
  is at least as bright as the pixel. A pattern is uniform if, once around, its bits change twice or never. No gradient
  flows through the codes.

  The differences from the middle are what is interpolated, so that those of a flat area are zeros, whatever the
  weights; and differences down to -TOLERANCE of the image's range count as zeros, so that a tie is one although its
  weighted sum is rounded. scikit-image, with the same codes, interpolates brightness in float64 and then compares: the
  last bit of that sum says how a tie ends there, flat areas between pixels not excepted.

  Args:
    image: [H, W], or [B, H, W, C] for the codes of each channel; any real dtype, taken as float32.
    neighbours: P, 2 to MOST.
    radius: of the circle in pixels; need not be a whole number.
    method: "default", bits as a number, the lowest for p = 0; "ror", the least number that rotating the bits gives;
      "uniform", the number of ones of uniform patterns, 0 to P, and P + 1 for all others: no rotation changes it;
      "nri_uniform", P (P - 1) + 3 codes: uniform patterns by their number of ones and their rotation, and all others.
    outside: brightness beyond the border; as 0 it is black in an image of 0 to 255, and scikit-image's. None for each
      channel's darkest: then a standardised image has the codes of the original, border included.

  Returns:
    uint32, in the shape of the image.

  Raises:
    ValueError: the image has another number of axes, or there is no such pattern.
  """
  check_pattern(neighbours, radius, method)
  if image.ndim not in (2, 4):
    raise ValueError(f"image of shape {image.shape}: expected [H, W] or [B, H, W, C]")
  encode = functools.partial(_encoded, neighbours=neighbours, radius=radius, method=method, outside=outside)
  if image.ndim == 4:
    encode = jax.vmap(jax.vmap(encode, in_axes=-1, out_axes=-1))
  return encode(jax.lax.stop_gradient(image).astype(jnp.float32))


def _encoded(image: jax.Array, neighbours: int, radius: float, method: str, outside: float | None) -> jax.Array:
  margin = math.ceil(radius)
  padded = jnp.pad(image, margin, constant_values=image.min() if outside is None else outside)
  least = -TOLERANCE * (padded.max() - padded.min())
  bits = [_difference(image, padded, margin, y, x) >= least for y, x in _circle(neighbours, radius)]
  return _CODES[method]([bit.astype(jnp.uint32) for bit in bits])


def _circle(neighbours: int, radius: float) -> list[tuple[float, float]]:
  """Returns rows and columns of the neighbours, from the middle."""
  angles = 2 * np.pi * np.arange(neighbours) / neighbours
  rows, columns = np.round(-radius * np.sin(angles), 5), np.round(radius * np.cos(angles), 5)
  return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _difference(image: jax.Array, padded: jax.Array, margin: int, y: float, x: float) -> jax.Array:
  """Returns by how much what is y below and x to the right of each pixel is brighter than that pixel."""
  height, width = image.shape
  difference = jnp.zeros_like(image)
  for row, row_weight in _between(y):
    for column, column_weight in _between(x):
      top, left = margin + row, margin + column
      corner = padded[top : top + height, left : left + width]
      difference += (row_weight * column_weight) * (corner - image)
  return difference


def _between(at: float) -> list[tuple[int, float]]:
  """Returns the one or two places, with their weights, that a place on an axis lies on or between."""
  first = math.floor(at)
  share = at - first
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
  # Only one neighbour is the first of a run of ones: this is how many places it lies before the circle's end.
  rotation = sum(start * (count - p) for p, start in enumerate(_starts(bits)) if p)
  code = jnp.where(ones == count, count * (count - 1) + 1, 1 + (ones - 1) * count + rotation)
  return jnp.where(_runs(bits) <= 1, jnp.where(ones == 0, 0, code), count * (count - 1) + 2).astype(jnp.uint32)


def _starts(bits: Sequence[jax.Array]) -> list[jax.Array]:
  """Says of each bit whether a run of ones begins with it, once around: the bit before it, of bit 0 the last, is 0."""
  return [bit & (before ^ 1) for before, bit in zip([bits[-1], *bits[:-1]], bits, strict=True)]


def _runs(bits: Sequence[jax.Array]) -> jax.Array:
  """Counts the runs of ones, once around: half the changes of bits."""
  return functools.reduce(jnp.add, _starts(bits))


_CODES = {
  "default": _number,
  "ror": _least_rotation,
  "uniform": _uniform,
  "nri_uniform": _uniform_with_rotation,
}
