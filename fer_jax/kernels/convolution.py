"""Convolution that stays fast when several networks are trained together (`jax.vmap` over kernels).

XLA turns a convolution that is mapped over both feature maps and kernels into a grouped convolution. Its backends have
slow code for that, above all for the gradient with respect to the kernel. This module instead computes such a
convolution and each of its two gradients as patches times one batched matrix product. It uses the same method, mapped
or not, in two more cases:

- The kernel is larger than the feature map, as in the last stage of a deep network on a small image. On a CPU, lax
  takes 11 times as long for 3x3 kernels on 256 channels of 2x2 positions, and 48 times as long on 512 channels.
- The kernel is 1x1 and the device is a CPU. lax takes 1.3 to 3.7 times as long for the convolution and its gradients.

Depthwise convolutions are computed by `depthwise`, all others by `jax.lax.conv_general_dilated`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from fer_jax.kernels.depthwise import depthwise
from fer_jax.kernels.geometry import Axis
from fer_jax.kernels.products import Form, kernel_product, maps_product, result_product

# Positions of the axes that the three arrays of a convolution share pairwise: each of batch, in and out occurs in
# exactly two arrays. The remaining two axes of each array are spatial.
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
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = ("NHWC", "HWIO", "NHWC"),
  feature_group_count: int = 1,
  precision: lax.PrecisionLike = None,
) -> jax.Array:
  """Convolves as `jax.lax.conv_general_dilated` does, but by matrix products under `jax.vmap` over maps and kernels.

  Values and gradients are bit for bit those of lax if the convolution is not mapped, has one group, has no kernel
  larger than the feature map and, on a CPU, is not 1x1. In all other cases they are the same sums in another order.

  Products of 16-bit numbers are accumulated in float32. The backward pass keeps only `maps` and `kernel`, never the
  patches. Reverse-mode differentiation works to any order; forward mode (`jax.jvp`) is not supported. One group per
  channel is computed by `depthwise`. Convolutions with other group counts, with dilation, with layouts other than NHWC
  and HWIO, or with other than two spatial axes are computed by lax, mapped or not.

  Args:
    maps: Input feature maps of shape [B, H, W, I].
    kernel: Kernel of shape [h, w, I / feature_group_count, O], in the dtype of `maps`.
    window_strides: Strides along the two spatial axes.
    padding: "SAME", "SAME_LOWER", "VALID", or a (low, high) pair for each of the two spatial axes.
    lhs_dilation: Dilation of `maps`; see lax.
    rhs_dilation: Dilation of `kernel`; see lax.
    dimension_numbers: Layouts of `maps`, `kernel` and the result; see lax.
    feature_group_count: Number of channel groups; see lax.
    precision: Precision of the products; see lax.

  Returns:
    Array of shape [B, H', W', O], in the dtype of `maps`.
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
  # Shape of the result; also raises lax's own errors for arguments that do not fit together.
  result = jax.eval_shape(plain, maps, kernel)
  # Everything else (layouts, dilation, partial groups, empty results) is left to lax.
  simple = (
    maps.ndim == 4
    and lax.conv_dimension_numbers(maps.shape, kernel.shape, dimension_numbers) == _NHWC
    and (feature_group_count == 1 or maps.shape[3] == kernel.shape[3] == feature_group_count)
    and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
    and math.prod(result.shape) > 0
  )
  if not simple:
    return plain(maps, kernel)
  # Resolve the padding to numbers: the custom gradients below need the geometry of each spatial axis.
  size, kernel_size, strides = maps.shape[1:3], kernel.shape[:2], tuple(window_strides)
  pads = lax.padtype_to_pads(size, kernel_size, strides, padding) if isinstance(padding, str) else padding
  axes = zip(size, kernel_size, strides, pads, result.shape[1:3], strict=True)
  geometry = tuple(Axis(n, k, stride, (low, high), out) for n, k, stride, (low, high), out in axes)
  return _derivative(Form(geometry, precision, feature_group_count > 1), "result", maps, kernel)


class Conv(nn.Module):
  """`nn.Conv` over two spatial axes, computed by `convolve` instead of lax; same parameters, same result.

  Attributes:
    features: Number of output channels.
    kernel_size: Size of the kernel along both axes.
    stride: Stride along both axes.
    padding: Number of zeros on each side.
    groups: Number of channel groups that are convolved separately.
    use_bias: Whether to add a bias to each output channel.
    kernel_init: Initializer of the kernel.
    dtype: Dtype of the computation; parameters stay float32.
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
    """Maps [B, H, W, C] to [B, H', W', features], H' = (H + 2 padding - kernel_size) // stride + 1, W' likewise."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    around = ((self.padding, self.padding),) * 2
    strides = (self.stride, self.stride)
    x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), strides, around, feature_group_count=self.groups)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
      x += bias.astype(self.dtype).reshape(1, 1, 1, -1)
    return x


def _others(name: str) -> list[str]:
  return [other for other in _AXES if other != name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _derivative(form: Form, name: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the derivative of the form with respect to the array `name`, given the other two arrays `a` and `b`.

  Under `jax.vmap` over both arrays it is one batched matrix product; over one array, that array's mapped axis is folded
  into an existing one and the convolution is computed without `vmap`.
  """
  if form.depthwise:
    return depthwise(form.axes, name, a, b, form.precision)
  _, product = _IMPLEMENTATIONS[name]
  # custom_vmap replaces the batching rule of lax, which would make a grouped convolution.
  function = jax.custom_batching.custom_vmap(functools.partial(_unmapped, form, name))

  @function.def_vmap
  def rule(size: int, mapped: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
    if all(mapped):
      return product(form, a, b), True
    # Only one array is mapped. Its copies are concatenated along the axis that it shares with the derivative and not
    # with the other array (batch for maps, out for kernels in the forward pass). One plain convolution computes them
    # all.
    one, other = _others(name) if mapped[0] else reversed(_others(name))
    (shared,) = _AXES[one].keys() - _AXES[other].keys()
    axis = _AXES[one][shared]
    folded = _derivative(form, name, _fold(a, axis) if mapped[0] else a, _fold(b, axis) if mapped[1] else b)
    return _unfold(folded, _AXES[name][shared], size), True

  return function(a, b)


def _forward(form: Form, name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _derivative(form, name, a, b), (a, b)


def _backward(
  form: Form, name: str, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, ...]:
  # The form is linear in each array, so the cotangent takes the role of the array `name`, and the gradients are
  # derivatives of the same form. This is what makes higher derivatives work.
  arrays = {name: cotangent, **dict(zip(_others(name), residuals, strict=True))}
  return tuple(_derivative(form, other, *(arrays[x] for x in _others(other))) for other in _others(name))


_derivative.defvjp(_forward, _backward)


def _unmapped(form: Form, name: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes a derivative that is not mapped, by lax or as a matrix product, whichever is faster."""
  plain, product = _IMPLEMENTATIONS[name]
  by_lax = functools.partial(plain, form)

  def by_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return product(form, a[None], b[None])[0]

  # The kernel exceeds the feature map: patches cost little memory, and lax is slow.
  if any(axis.length < axis.kernel for axis in form.axes):
    return by_product(a, b)
  # A 1x1 kernel needs no patches: the convolution is a matrix product. Only CPUs are slow at it in lax.
  if all(axis.kernel == 1 for axis in form.axes):
    return cast(jax.Array, lax.platform_dependent(a, b, cpu=by_product, default=by_lax))
  return by_lax(a, b)


def _fold(x: jax.Array, axis: int) -> jax.Array:
  """Merges the first axis into another, [n, ..., a, ...] -> [..., n a, ...]; `axis` does not count the first one."""
  # [n, ..., a, ...] -> [..., n, a, ...]
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _unfold(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Inverts `_fold`: [..., n a, ...] -> [n, ..., a, ...], where n is `size`."""
  return jnp.moveaxis(x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :]), axis, 0)


def _convolve(form: Form, maps: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    maps,
    kernel,
    [axis.stride for axis in form.axes],
    [axis.padding for axis in form.axes],
    dimension_numbers=_NHWC,
    precision=form.precision,
  )


def _transpose_maps(form: Form, kernel: jax.Array, result: jax.Array) -> jax.Array:
  shape = (result.shape[0], *(axis.length for axis in form.axes), kernel.shape[2])
  # The convolution is linear in the maps, so its transpose needs only their shape, not their values.
  maps = jax.ShapeDtypeStruct(shape, result.dtype)
  (gradient,) = jax.linear_transpose(lambda maps: _convolve(form, maps, kernel), maps)(result)
  return cast(jax.Array, gradient)


def _transpose_kernel(form: Form, maps: jax.Array, result: jax.Array) -> jax.Array:
  shape = (*(axis.kernel for axis in form.axes), maps.shape[3], result.shape[3])
  # Likewise, only the shape of the kernel is needed.
  kernel = jax.ShapeDtypeStruct(shape, maps.dtype)
  (gradient,) = jax.linear_transpose(lambda kernel: _convolve(form, maps, kernel), kernel)(result)
  return cast(jax.Array, gradient)


_IMPLEMENTATIONS: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = {
  "maps": (_transpose_maps, maps_product),
  "kernel": (_transpose_kernel, kernel_product),
  "result": (_convolve, result_product),
}
