"""A convolution and its two gradients as patches times one batched matrix product, for several networks at once.

All arrays have a leading axis of networks, R.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.kernels.geometry import Axis
from fer_jax.kernels.ordering import depend_on


class Form(NamedTuple):
  """Trilinear form sum(result * convolution(maps, kernel)) of the three arrays of a convolution.

  Its derivative with respect to `result` is the convolution; its derivatives with respect to `maps` and `kernel` are
  the gradients of the convolution. Each derivative is a function of the other two arrays, in the order maps,
  kernel, result.

  Attributes:
    axes: Geometry of the two spatial axes.
    precision: Precision of the products.
    depthwise: Whether each channel is its own group.
  """

  axes: tuple[Axis, ...]
  precision: lax.PrecisionLike
  depthwise: bool


def result_product(form: Form, maps: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns the convolution, [R, B, H', W', O], of maps [R, B, H, W, I] with kernel [R, h, w, I, O]."""
  patches = _patches(maps, *form.axes)
  # [R, h, w, I, O] -> [R, h*w*I, O]
  columns = kernel.reshape(len(kernel), -1, kernel.shape[-1])
  # [R, B, H', W', h*w*I] x [R, h*w*I, O] -> [R, B, H', W', O]
  return _multiply(form, patches, columns, (4,), (1,))


def kernel_product(form: Form, maps: jax.Array, result: jax.Array) -> jax.Array:
  """Returns the gradient with respect to the kernel, [R, h, w, I, O], for the cotangent `result`."""
  if math.prod(axis.kernel for axis in form.axes) > 1:
    # Without this dependency XLA merges these patches with those of the forward pass and keeps them in memory between
    # the two passes, h*w times the size of the maps.
    maps = depend_on(maps, result)
  patches = _patches(maps, *form.axes)
  # Contract batch and positions: [R, B, H', W', h*w*I] x [R, B, H', W', O] -> [R, h*w*I, O]
  columns = _multiply(form, patches, result, (1, 2, 3), (1, 2, 3))
  return columns.reshape(len(maps), *(axis.kernel for axis in form.axes), maps.shape[-1], result.shape[-1])


def maps_product(form: Form, kernel: jax.Array, result: jax.Array) -> jax.Array:
  """Returns the gradient with respect to the maps as one product over cells of stride x stride input positions.

  Each input position is multiplied with only every stride-th row and column of the kernel. The kernel is therefore
  split into one sub-kernel per position of a cell. One window of results then gives the gradient at all positions of a
  cell, and no zeros are inserted between the results.
  """
  cells = [_Cells.from_axis(axis) for axis in form.axes]
  networks, _, _, channels, features = kernel.shape
  (m, taps_m), (n, taps_n) = ((cell.positions, cell.taps) for cell in cells)
  # Pad the kernel to whole cells, then split each spatial axis into (taps, positions) and flip the taps:
  # [R, h, w, I, O] -> [R, taps_m, m, taps_n, n, I, O]
  kernel = _pad(kernel, {i: (0, c.taps * c.positions - c.kernel, 0) for i, c in enumerate(cells, start=1)})
  kernel = kernel.reshape(networks, taps_m, m, taps_n, n, channels, features)[:, ::-1, :, ::-1]
  # -> [R, taps_m*taps_n*O, m*n*I], the order of the channels of the patches below
  columns = kernel.transpose(0, 1, 3, 6, 2, 4, 5).reshape(networks, taps_m * taps_n * features, m * n * channels)
  # Windows of results, one per cell, at stride 1: [R, B, H', W', O] -> [R, B, cells, cells, taps_m*taps_n*O]
  windows = zip(form.axes, cells, strict=True)
  patches = _patches(result, *(Axis(axis.result, cell.taps, 1, cell.padding, cell.cells) for axis, cell in windows))
  maps = _multiply(form, patches, columns, (4,), (1,))
  # [R, B, cells, cells, m*n*I] -> [R, B, cells, cells, m, n, I]
  maps = maps.reshape(*maps.shape[:4], m, n, channels)
  # Positions that no result depends on have gradient 0: m, n -> stride, stride.
  maps = _pad(maps, {i: (0, c.stride - c.positions, 0) for i, c in enumerate(cells, start=4)})
  # Interleave cells and positions: -> [R, B, cells, stride, cells, stride, I] -> [R, B, cells*stride, cells*stride, I]
  maps = maps.transpose(0, 1, 2, 4, 3, 5, 6)
  maps = maps.reshape(networks, -1, *(cell.cells * cell.stride for cell in cells), channels)
  # Crop to the unpadded input: -> [R, B, H, W, I]
  return _pad(maps, {i: cell.crop for i, cell in enumerate(cells, start=2)})


class _Cells(NamedTuple):
  """Geometry, along one axis, of the gradient with respect to the maps.

  The padded input is split into cells of `stride` consecutive positions. The gradients at all
  positions of a cell depend on the same window of `taps` consecutive results.

  Attributes:
    kernel: Length of the kernel.
    stride: Number of positions in a cell.
    positions: Number of positions in a cell that any result depends on; less than `stride` if the kernel is shorter.
    taps: Number of results that depend on a cell.
    cells: Number of cells.
    padding: Padding (low, high) of the results that completes the window of every cell.
    crop: Padding (low, high, interior) of the cells, low and high negative or zero, that leaves the positions of the
      unpadded input.
  """

  kernel: int
  stride: int
  positions: int
  taps: int
  cells: int
  padding: tuple[int, int]
  crop: tuple[int, int, int]

  @classmethod
  def from_axis(cls, axis: Axis) -> "_Cells":
    """Computes the cells of one spatial axis of a convolution."""
    low, _ = axis.padding
    # Cells, counted from the start of the padded input, of the first and the last unpadded position.
    first, last = low // axis.stride, (low + axis.length - 1) // axis.stride
    taps, cells = -(-axis.kernel // axis.stride), last + 1 - first
    # Offset of the first unpadded position within its cell.
    start = low - first * axis.stride
    crop = (-start, start + axis.length - cells * axis.stride, 0)
    # Cell c depends on the results c - taps + 1 to c; results outside the array are zeros.
    padding = (taps - 1 - first, last + 1 - axis.result)
    return cls(axis.kernel, axis.stride, min(axis.kernel, axis.stride), taps, cells, padding, crop)


def _patches(x: jax.Array, *axes: Axis) -> jax.Array:
  """Concatenates shifted maps along the channels: [R, B, H, W, C] -> [R, B, H', W', h w C]."""
  down, across = axes
  x = _pad(x, {i: (*axis.padding, 0) for i, axis in enumerate(axes, start=2)})
  # One strided slice per kernel tap, row by row: the order of the reshaped kernel's rows.
  shifts = itertools.product(range(down.kernel), range(across.kernel))
  return jnp.concatenate([x[:, :, down.tap_slice(i), across.tap_slice(j)] for i, j in shifts], axis=-1)


def _pad(x: jax.Array, widths: dict[int, tuple[int, int, int]]) -> jax.Array:
  """Pads some axes with zeros (low, high, interior); negative widths crop."""
  return lax.pad(x, jnp.zeros((), x.dtype), [widths.get(axis, (0, 0, 0)) for axis in range(x.ndim)])


def _multiply(form: Form, a: jax.Array, b: jax.Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...]) -> jax.Array:
  """Multiplies two arrays per network, contracting the given axes; accumulates 16-bit numbers in float32."""
  # Accumulation dtype: float32 for 16-bit inputs, otherwise the dtype of the inputs.
  dtype = jnp.promote_types(a.dtype, jnp.float32)
  product = lax.dot_general(
    a, b, ((axes_a, axes_b), ((0,), (0,))), precision=form.precision, preferred_element_type=dtype
  )
  return product.astype(a.dtype)
