"""Depthwise convolution (one kernel per channel) and its two gradients, computed as sums of shifted feature maps.

On a CPU, XLA computes a depthwise convolution channel by channel. Sums of shifted feature maps vectorise along the
channels, which are contiguous in memory: on two cores, 3x3 kernels on 32 feature maps of 44x44x128 take 20 ms instead
of 235 ms, and 53 ms instead of 964 ms with both gradients. Other devices have optimised code, so `lax` is used there.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.kernels.geometry import Axis

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def depthwise(
  axes: Sequence[Axis], name: str, a: jax.Array, b: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
  """Returns one of the three arrays of the trilinear form of a depthwise convolution, given the other two.

  The three arrays are, in this order: maps [B, H, W, C], kernel [h, w, 1, C] and result [B, H', W', C].

  Args:
    axes: Geometry of the two spatial axes.
    name: Array to compute: "result" (the convolution), or "maps" or "kernel" (its gradients).
    a: First of the two arrays other than `name`.
    b: Second of the two arrays other than `name`.
    precision: Precision of the products in `lax`. The sums on a CPU always use float32, or float64 for float64 inputs.

  Returns:
    Array `name`, in the shape given above.
  """
  # The device is chosen when the program is lowered, so one traced program serves CPU and GPU.
  by_sums, by_lax = _IMPLEMENTATIONS[name]
  cpu, default = functools.partial(by_sums, axes), functools.partial(by_lax, axes, precision)
  return cast(jax.Array, lax.platform_dependent(a, b, cpu=cpu, default=default))


def _result(axes: Sequence[Axis], maps: jax.Array, kernel: jax.Array) -> jax.Array:
  padded = _pad(maps, [(*axis.padding, 0) for axis in axes])
  return _sum_of_shifts(axes, padded, kernel)


def _maps(axes: Sequence[Axis], kernel: jax.Array, result: jax.Array) -> jax.Array:
  """Computes the gradient with respect to the maps: the dilated result convolved with the flipped kernel."""
  widths, transposed = [], []
  for axis in axes:
    # Padding before the dilated result; may be negative, which crops.
    low = axis.kernel - 1 - axis.padding[0]
    # Length of the result after stride - 1 zeros are inserted between its positions.
    dilated = (axis.result - 1) * axis.stride + 1
    widths.append((low, axis.length + axis.kernel - 1 - low - dilated, axis.stride - 1))
    # Geometry of the transposed convolution: stride 1, back to the length of the input.
    transposed.append(Axis(axis.result, axis.kernel, 1, (0, 0), axis.length))
  return _sum_of_shifts(transposed, _pad(result, widths), kernel[::-1, ::-1])


def _kernel(axes: Sequence[Axis], maps: jax.Array, result: jax.Array) -> jax.Array:
  """Computes the gradient with respect to the kernel by a scan over the images.

  One image at a time stays in the cache while it is multiplied with the result for all kernel taps.
  """
  down, across = axes
  sums = jnp.promote_types(maps.dtype, jnp.float32)
  padded = _pad(maps, [(*axis.padding, 0) for axis in axes])

  # Adds the products of one image to one running sum [H', W', C] per kernel tap.
  def add(totals: list[jax.Array], image: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
    image_values, result_values = (x.astype(sums) for x in image)
    products = (image_values[down.tap_slice(i), across.tap_slice(j)] * result_values for i, j in _taps(axes))
    return [total + product for total, product in zip(totals, products, strict=True)], None

  totals, _ = lax.scan(add, [jnp.zeros(result.shape[1:], sums) for _ in _taps(axes)], (padded, result))
  # Sum over the positions last: h*w arrays [H', W', C] -> [h*w, C]
  kernel = jnp.stack([total.sum(axis=(0, 1)) for total in totals])
  return kernel.reshape(down.kernel, across.kernel, 1, -1).astype(maps.dtype)


def _sum_of_shifts(axes: Sequence[Axis], padded: jax.Array, kernel: jax.Array) -> jax.Array:
  down, across = axes
  sums = jnp.promote_types(padded.dtype, jnp.float32)
  total = jnp.zeros((), sums)
  for i, j in _taps(axes):
    # Elements of the padded input that tap (i, j) is multiplied with: [B, H', W', C]
    shifted = padded[:, down.tap_slice(i), across.tap_slice(j)].astype(sums)
    # The tap's weights [1, C] broadcast over images and positions.
    total = total + shifted * kernel[i, j].astype(sums).reshape(1, 1, 1, -1)
  return total.astype(padded.dtype)


def _taps(axes: Sequence[Axis]) -> Iterator[tuple[int, int]]:
  """Returns the (row, column) indices of the kernel taps, row by row."""
  down, across = axes
  return itertools.product(range(down.kernel), range(across.kernel))


def _pad(x: jax.Array, widths: Sequence[tuple[int, int, int]]) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *widths, (0, 0, 0)])


def _convolve(axes: Sequence[Axis], precision: lax.PrecisionLike, maps: jax.Array, kernel: jax.Array) -> jax.Array:
  # feature_group_count = C makes the convolution depthwise.
  return lax.conv_general_dilated(
    maps,
    kernel,
    [axis.stride for axis in axes],
    [axis.padding for axis in axes],
    dimension_numbers=_LAYOUT,
    feature_group_count=maps.shape[-1],
    precision=precision,
  )


def _transpose_maps(
  axes: Sequence[Axis], precision: lax.PrecisionLike, kernel: jax.Array, result: jax.Array
) -> jax.Array:
  maps = jax.ShapeDtypeStruct((len(result), *(axis.length for axis in axes), result.shape[-1]), result.dtype)
  (gradient,) = jax.linear_transpose(lambda maps: _convolve(axes, precision, maps, kernel), maps)(result)
  return cast(jax.Array, gradient)


def _transpose_kernel(
  axes: Sequence[Axis], precision: lax.PrecisionLike, maps: jax.Array, result: jax.Array
) -> jax.Array:
  kernel = jax.ShapeDtypeStruct((*(axis.kernel for axis in axes), 1, maps.shape[-1]), maps.dtype)
  (gradient,) = jax.linear_transpose(lambda kernel: _convolve(axes, precision, maps, kernel), kernel)(result)
  return cast(jax.Array, gradient)


_IMPLEMENTATIONS: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = {
  "maps": (_maps, _transpose_maps),
  "kernel": (_kernel, _transpose_kernel),
  "result": (_result, _convolve),
}
