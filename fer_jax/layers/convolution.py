"""A convolution for several networks that run side by side (`jax.vmap` over kernels).

XLA turns a convolution that is mapped over maps and kernels into a grouped one, for which its backends have slow code,
above all for the gradient with respect to the kernel. Here such a convolution and its two gradients are each patches
times one batched matrix product. So is, mapped or not, one whose kernel is larger than the map, as in the last stage
of a deep network on a small image: on a CPU, lax takes 11 times as long for 3x3 kernels on 256 maps of 2x2, and 48
times for 512. So is, on a CPU, one whose kernel is 1x1: for it and its gradients lax takes 1.3 to 3.7 times as long.
Convolutions of each channel apart are `depthwise`'s. All others are `jax.lax.conv_general_dilated` as ever.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from fer_jax.layers.depthwise import depthwise
from fer_jax.layers.geometry import Axis
from fer_jax.layers.ordering import depend_on

_Pair = tuple[int, int]

# Where the axes are that the three arrays of a convolution share pairwise; the other two axes are places.
_AXES: dict[str, dict[str, int]] = {
  "maps": {"batch": 0, "in": 3},
  "kernel": {"in": 2, "out": 3},
  "result": {"batch": 0, "out": 3},
}
_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def convolve(
  maps: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[_Pair],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = ("NHWC", "HWIO", "NHWC"),
  feature_group_count: int = 1,
  precision: lax.PrecisionLike = None,
) -> jax.Array:
  """Convolves as `jax.lax.conv_general_dilated` does, but under `jax.vmap` over maps and kernels by matrix products.

  Values and gradients of what is not mapped, in one group, and of no larger kernel than map nor, on a CPU, of 1x1, are
  those of lax to the bit; else they are sums in another order.
  Products of 16-bit numbers are added up in float32. For the backward pass only maps and kernel are kept, never
  patches. Can be differentiated in reverse, any number of times, not forward (`jax.jvp`). A group for each channel is
  `depthwise`'s. Convolutions of other groups, dilated ones, other layouts than NHWC and HWIO, and other than two
  spatial axes are lax's, mapped or not.

  Args:
    maps: [B, H, W, I].
    kernel: [h, w, I / feature_group_count, O], of the maps' dtype.
    window_strides: of both spatial axes.
    padding: "SAME", "SAME_LOWER", "VALID" or (low, high) of both spatial axes.
    lhs_dilation: as in lax.
    rhs_dilation: as in lax.
    dimension_numbers: as in lax.
    feature_group_count: as in lax.
    precision: as in lax.

  Returns:
    [B, H', W', O], of the maps' dtype.
  """
  plain = functools.partial(
    lax.conv_general_dilated,
    window_strides=window_strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
  )
  result = jax.eval_shape(plain, maps, kernel)  # raises lax's errors
  simple = (
    maps.ndim == 4
    and lax.conv_dimension_numbers(maps.shape, kernel.shape, dimension_numbers) == _NHWC
    and (feature_group_count == 1 or maps.shape[3] == kernel.shape[3] == feature_group_count)
    and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
    and math.prod(result.shape) > 0
  )
  if not simple:
    return plain(maps, kernel)
  size, kernel_size, strides = maps.shape[1:3], kernel.shape[:2], tuple(window_strides)
  pads = lax.padtype_to_pads(size, kernel_size, strides, padding) if isinstance(padding, str) else padding
  axes = zip(size, kernel_size, strides, pads, result.shape[1:3], strict=True)
  geometry = tuple(Axis(n, k, stride, (low, high), out) for n, k, stride, (low, high), out in axes)
  return _derivative(_Form(geometry, precision, feature_group_count > 1), "result", maps, kernel)


class Conv(nn.Module):
  """`nn.Conv` over both spatial axes, with `convolve` in the place of lax's: the same parameters, the same result.

  Attributes:
    features: output channels.
    kernel_size: both axes.
    stride: both axes.
    padding: zeros on each side.
    groups: of channels that are convolved apart.
    use_bias: add one to each channel.
    kernel_init: draws the kernel.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  groups: int = 1
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, (H + 2 padding - kernel_size) // stride + 1, the same of W, features]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    around = ((self.padding, self.padding),) * 2
    strides = (self.stride, self.stride)
    x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), strides, around, feature_group_count=self.groups)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      x += bias.astype(self.dtype).reshape(1, 1, 1, -1)
    return x


class _Form(NamedTuple):
  """The sum of result * convolution(maps, kernel): linear in each of its three arrays.

  Its derivative with respect to the result is the convolution, those with respect to the maps and the kernel are the
  convolution's gradients: each a function of the other two arrays, which are passed in the order of `_AXES`.
  """

  axes: tuple[Axis, ...]
  precision: lax.PrecisionLike
  depthwise: bool


def _others(name: str) -> list[str]:
  return [other for other in _AXES if other != name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _derivative(form: _Form, name: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the derivative with respect to one array at the other two: by lax, or as a product."""
  if form.depthwise:
    return depthwise(form.axes, name, a, b, form.precision)
  _, product = _WAYS[name]
  function = jax.custom_batching.custom_vmap(functools.partial(_of_one_network, form, name))

  @function.def_vmap
  def rule(size: int, mapped: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
    if all(mapped):
      return product(form, a, b), True
    # The copies of the one that is mapped are laid side by side along the axis that the other one does not have.
    one, other = _others(name) if mapped[0] else reversed(_others(name))
    (shared,) = _AXES[one].keys() - _AXES[other].keys()
    axis = _AXES[one][shared]
    folded = _derivative(form, name, _fold(a, axis) if mapped[0] else a, _fold(b, axis) if mapped[1] else b)
    return _unfold(folded, _AXES[name][shared], size), True

  return function(a, b)


def _forward(form: _Form, name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _derivative(form, name, a, b), (a, b)


def _backward(form: _Form, name: str, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, ...]:
  arrays = {name: cotangent, **dict(zip(_others(name), kept, strict=True))}
  return tuple(_derivative(form, other, *(arrays[x] for x in _others(other))) for other in _others(name))


_derivative.defvjp(_forward, _backward)


def _of_one_network(form: _Form, name: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns what is not mapped the way that is faster: as a product where there are no patches to speak of."""
  plain, product = _WAYS[name]
  by_lax = functools.partial(plain, form)

  def by_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return product(form, a[None], b[None])[0]

  if any(axis.length < axis.kernel for axis in form.axes):
    return by_product(a, b)
  if all(axis.kernel == 1 for axis in form.axes):
    return cast(jax.Array, lax.platform_dependent(a, b, cpu=by_product, default=by_lax))
  return by_lax(a, b)


def _fold(x: jax.Array, axis: int) -> jax.Array:
  """Merges the first axis into another, [n, ..., a, ...] -> [..., n a, ...]; `axis` counts without the first one."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _unfold(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Undoes `_fold`."""
  return jnp.moveaxis(x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :]), axis, 0)


def _convolve(form: _Form, maps: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    maps,
    kernel,
    [axis.stride for axis in form.axes],
    [axis.padding for axis in form.axes],
    dimension_numbers=_NHWC,
    precision=form.precision,
  )


def _transpose_maps(form: _Form, kernel: jax.Array, result: jax.Array) -> jax.Array:
  shape = (result.shape[0], *(axis.length for axis in form.axes), kernel.shape[2])
  maps = jax.ShapeDtypeStruct(shape, result.dtype)
  (gradient,) = jax.linear_transpose(lambda maps: _convolve(form, maps, kernel), maps)(result)
  return cast(jax.Array, gradient)


def _transpose_kernel(form: _Form, maps: jax.Array, result: jax.Array) -> jax.Array:
  shape = (*(axis.kernel for axis in form.axes), maps.shape[3], result.shape[3])
  kernel = jax.ShapeDtypeStruct(shape, maps.dtype)
  (gradient,) = jax.linear_transpose(lambda kernel: _convolve(form, maps, kernel), kernel)(result)
  return cast(jax.Array, gradient)


# From here on all arrays have a first axis of networks, R.


def _product_result(form: _Form, maps: jax.Array, kernel: jax.Array) -> jax.Array:
  patches = _patches(maps, *form.axes)
  columns = kernel.reshape(len(kernel), -1, kernel.shape[-1])  # [R, h w I, O]
  return _multiply(form, patches, columns, (4,), (1,))


def _product_kernel(form: _Form, maps: jax.Array, result: jax.Array) -> jax.Array:
  if math.prod(axis.kernel for axis in form.axes) > 1:
    # Else XLA would recognise the forward pass's patches here and keep them, h w times as large as the maps.
    maps = depend_on(maps, result)
  patches = _patches(maps, *form.axes)
  columns = _multiply(form, patches, result, (1, 2, 3), (1, 2, 3))
  return columns.reshape(len(maps), *(axis.kernel for axis in form.axes), maps.shape[-1], result.shape[-1])


def _product_maps(form: _Form, kernel: jax.Array, result: jax.Array) -> jax.Array:
  """Returns the gradient with respect to the maps, a cell of stride x stride places for each window of results.

  A place reads every stride-th row of the kernel only: with the kernel cut into that many smaller ones, one window of
  results gives all places of a cell at once and no zeros are inserted between results.
  """
  cells = [_Cells.of(axis) for axis in form.axes]
  networks, _, _, channels, features = kernel.shape
  (m, taps_m), (n, taps_n) = ((cell.places, cell.taps) for cell in cells)
  kernel = _pad(kernel, {i: (0, c.taps * c.places - c.kernel, 0) for i, c in enumerate(cells, start=1)})
  kernel = kernel.reshape(networks, taps_m, m, taps_n, n, channels, features)[:, ::-1, :, ::-1]
  columns = kernel.transpose(0, 1, 3, 6, 2, 4, 5).reshape(networks, taps_m * taps_n * features, m * n * channels)
  windows = zip(form.axes, cells, strict=True)
  patches = _patches(result, *(Axis(axis.result, cell.taps, 1, cell.padding, cell.cells) for axis, cell in windows))
  maps = _multiply(form, patches, columns, (4,), (1,))
  maps = maps.reshape(*maps.shape[:4], m, n, channels)
  maps = _pad(maps, {i: (0, c.stride - c.places, 0) for i, c in enumerate(cells, start=4)})
  maps = maps.transpose(0, 1, 2, 4, 3, 5, 6)
  maps = maps.reshape(networks, -1, *(cell.cells * cell.stride for cell in cells), channels)
  return _pad(maps, {i: cell.crop for i, cell in enumerate(cells, start=2)})


class _Cells(NamedTuple):
  """How the results along an axis are read so as to give the gradient at the maps' places.

  Attributes:
    kernel: length.
    stride: places in a cell.
    places: of a cell that any result depends on.
    taps: results that a cell depends on.
    cells: how many.
    padding: of the results, such that each cell's window exists.
    crop: negative padding that leaves those places that are the maps'.
  """

  kernel: int
  stride: int
  places: int
  taps: int
  cells: int
  padding: _Pair
  crop: tuple[int, int, int]

  @classmethod
  def of(cls, axis: Axis) -> "_Cells":
    low, _ = axis.padding
    first, last = low // axis.stride, (low + axis.length - 1) // axis.stride
    taps, cells = -(-axis.kernel // axis.stride), last + 1 - first
    start = low - first * axis.stride
    crop = (-start, start + axis.length - cells * axis.stride, 0)
    padding = (taps - 1 - first, last + 1 - axis.result)
    return cls(axis.kernel, axis.stride, min(axis.kernel, axis.stride), taps, cells, padding, crop)


def _patches(x: jax.Array, *axes: Axis) -> jax.Array:
  """Lays shifted maps side by side: [R, B, H, W, C] -> [R, B, H', W', h w C]."""
  down, across = axes
  x = _pad(x, {i: (*axis.padding, 0) for i, axis in enumerate(axes, start=2)})
  shifts = itertools.product(range(down.kernel), range(across.kernel))
  return jnp.concatenate([x[:, :, down.read(i), across.read(j)] for i, j in shifts], axis=-1)


def _pad(x: jax.Array, widths: dict[int, tuple[int, int, int]]) -> jax.Array:
  """Pads some axes with zeros before, behind and between; negative widths crop."""
  return lax.pad(x, jnp.zeros((), x.dtype), [widths.get(axis, (0, 0, 0)) for axis in range(x.ndim)])


def _multiply(form: _Form, a: jax.Array, b: jax.Array, of_a: tuple[int, ...], of_b: tuple[int, ...]) -> jax.Array:
  """Multiplies network by network, summing over the given axes; 16-bit numbers are added up in float32."""
  sums = jnp.promote_types(a.dtype, jnp.float32)
  product = lax.dot_general(a, b, ((of_a, of_b), ((0,), (0,))), precision=form.precision, preferred_element_type=sums)
  return product.astype(a.dtype)


_WAYS: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = {
  "maps": (_transpose_maps, _product_maps),
  "kernel": (_transpose_kernel, _product_kernel),
  "result": (_convolve, _product_result),
}
