"""Max pooling with a gradient that is also fast on a CPU."""

import functools
import itertools
from collections.abc import Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.kernels.geometry import Axis

_Pairs = tuple[tuple[int, int], ...]


def max_pool(
  maps: jax.Array, window: tuple[int, int], strides: tuple[int, int], padding: str | Sequence[tuple[int, int]] = "VALID"
) -> jax.Array:
  """Returns the maximum of each window, as `flax.linen.max_pool` does; ties send the gradient to the first maximum.

  On a CPU, XLA's gradient searches each window again, value by value: 39 ms on two cores for 3x3 windows at stride 2 on
  32 feature maps of 44x44x32. This gradient compares each window position for all windows at once and takes 5 ms. Other
  devices use XLA's gradient. Only reverse-mode differentiation is supported.

  Args:
    maps: Feature maps of shape [B, H, W, C].
    window: Window size along both axes.
    strides: Strides along both axes.
    padding: "SAME", "VALID", or a (low, high) pair for each axis. Padded positions are never the maximum.

  Returns:
    Array of shape [B, H', W', C].
  """
  pads = lax.padtype_to_pads(maps.shape[1:3], window, strides, padding) if isinstance(padding, str) else padding
  return _max_pool(window, strides, tuple((low, high) for low, high in pads), maps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_pool(window: tuple[int, int], strides: tuple[int, int], pads: _Pairs, maps: jax.Array) -> jax.Array:
  return cast(jax.Array, nn.max_pool(maps, window, strides=strides, padding=pads))


def _forward(
  window: tuple[int, int], strides: tuple[int, int], pads: _Pairs, maps: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  maximum = _max_pool(window, strides, pads, maps)
  return maximum, (maps, maximum)


def _backward(
  window: tuple[int, int],
  strides: tuple[int, int],
  pads: _Pairs,
  residuals: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array]:
  maps, maximum = residuals
  lengths = zip(maps.shape[1:3], window, strides, pads, maximum.shape[1:3], strict=True)
  axes = [Axis(*sizes) for sizes in lengths]

  def by_lax(maps: jax.Array, _: jax.Array, cotangent: jax.Array) -> jax.Array:
    pull_back = jax.vjp(lambda maps: nn.max_pool(maps, window, strides=strides, padding=pads), maps)[1]
    return cast(jax.Array, pull_back(cotangent)[0])

  by_positions = functools.partial(_by_positions, axes)
  return (lax.platform_dependent(maps, maximum, cotangent, cpu=by_positions, default=by_lax),)


_max_pool.defvjp(_forward, _backward)


def _by_positions(axes: Sequence[Axis], maps: jax.Array, maximum: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Routes the cotangent of each window to the first position of the window that has the maximum.

  The padded maps are split into cells of stride x stride positions. A given window position falls on the same position
  within a cell for all windows. The gradients can therefore be assembled cell by cell, without inserting zeros.

  Args:
    axes: Geometry of the two spatial axes.
    maps: Feature maps of shape [B, H, W, C].
    maximum: Window maxima of shape [B, H', W', C].
    cotangent: Cotangent of `maximum`, of the same shape.

  Returns:
    Gradient with respect to `maps`, of shape [B, H, W, C].
  """
  down, across = axes
  # Padding with -inf never equals a maximum of finite values.
  padded = _pad(maps, [axis.padding for axis in axes], -jnp.inf)
  positions = list(itertools.product(range(down.kernel), range(across.kernel)))
  # The smallest unsigned integer dtype that can index the window saves memory traffic.
  argmax = jnp.zeros(maximum.shape, np.min_scalar_type(len(positions)))
  # Index of the window position that holds the maximum, [B, H', W', C]. In reversed order, the first of several equal
  # maxima overwrites the later ones.
  for number, (i, j) in reversed(list(enumerate(positions))):
    argmax = jnp.where(padded[:, down.tap_slice(i), across.tap_slice(j)] == maximum, argmax.dtype.type(number), argmax)
  # Number of cells along each axis that the windows cover.
  cells = [axis.result + (axis.kernel - 1) // axis.stride for axis in axes]
  gradients: dict[tuple[int, int], jax.Array] = {}
  for number, (i, j) in enumerate(positions):
    # Window position (i, j) is position (row, column) of the cell (p, q) after the window's first cell.
    (p, row), (q, column) = divmod(i, down.stride), divmod(j, across.stride)
    around = [(p, cells[0] - axes[0].result - p), (q, cells[1] - axes[1].result - q)]
    # [B, H', W', C] -> [B, cells, cells, C], shifted by (p, q) cells
    shifted = _pad(jnp.where(argmax == number, cotangent, 0), around, 0)
    gradients[row, column] = gradients[row, column] + shifted if (row, column) in gradients else shifted
  # Gradient of cell positions that no window reads (stride larger than the window).
  zeros = jnp.zeros((len(maps), *cells, maps.shape[-1]), cotangent.dtype)
  rows = [
    jnp.stack([gradients.get((row, column), zeros) for column in range(across.stride)], axis=3)
    for row in range(down.stride)
  ]
  # -> [B, cells, stride, cells, stride, C] -> [B, cells*stride, cells*stride, C]
  gradient = jnp.stack(rows, axis=2)
  gradient = gradient.reshape(len(maps), cells[0] * down.stride, cells[1] * across.stride, -1)
  # Crop the padding, or append zeros where no window reaches the end of the maps.
  before = [axis.padding[0] for axis in axes]
  after = [axis.length + low - n * axis.stride for axis, low, n in zip(axes, before, cells, strict=True)]
  return _pad(gradient, [(-low, high) for low, high in zip(before, after, strict=True)], 0)


def _pad(x: jax.Array, widths: Sequence[tuple[int, int]], value: float) -> jax.Array:
  """Pads height and width with `value`; negative widths crop."""
  return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in widths), (0, 0, 0)])
