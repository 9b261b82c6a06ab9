"""Weight-only quantization: kernels in int8 with one scale per output channel, or in bfloat16.

The computation itself is unchanged. These are pure functions of parameters, {layer name: parameters} or any other
pytree. Large kernels are stored in fewer bits and converted back by `dequantize` before use, inside the compiled
program:

  weights = quantize(params)
  outputs, _ = network.apply(dequantize(weights), stats, image)

Biases, scales and offsets of normalisation layers, and small kernels are unchanged.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MIN_SIZE = 1024  # minimum number of elements of a large kernel; smaller kernels are unchanged
_MAX_INT8 = 127  # largest int8 magnitude; -128 is unused, which keeps the range symmetric


class Quantized(NamedTuple):
  """Quantized kernel, equal to values * scale; its last axis is that of the output channels.

  Attributes:
    values: Rounded kernel, int8 [..., O], -127 to 127.
    scale: Largest magnitude of each channel / 127, float32 [1, ..., 1, O]; 0 for a channel of zeros.
  """

  values: jax.Array
  scale: jax.Array


def quantize(params: Any, min_size: int = MIN_SIZE) -> Any:
  """Rounds every large kernel to int8 with one scale per output channel; no weight changes by more than scale / 2.

  Quantization is symmetric, so zero stays zero. A channel with a non-finite number becomes NaN.

  Args:
    params: Pytree of arrays. Large kernels are floating-point arrays with two or more axes and at least `min_size`
      numbers.
    min_size: Minimum number of elements of a large kernel.

  Returns:
    Tree of the same structure with a `Quantized` in place of each large kernel.
  """
  return _map_large_kernels(_quantize_kernel, params, min_size)


def cast(params: Any, dtype: Any = jnp.bfloat16, min_size: int = MIN_SIZE) -> Any:
  """Stores every large kernel in a shorter floating-point dtype.

  Args:
    params: Pytree of arrays; large kernels are defined as in `quantize`.
    dtype: Floating-point dtype of the stored kernels.
    min_size: Minimum number of elements of a large kernel.

  Returns:
    Tree of the same structure with each large kernel in `dtype`.
  """
  return _map_large_kernels(lambda kernel: kernel.astype(dtype), params, min_size)


def dequantize(weights: Any, dtype: Any = jnp.float32) -> Any:
  """Converts the result of `quantize` or `cast` back to parameters for the network.

  Args:
    weights: Pytree of arrays and `Quantized`.
    dtype: Dtype of the restored kernels; also of any other 16-bit array. All other arrays keep theirs.

  Returns:
    Pytree of arrays.
  """

  def restore(leaf: Any) -> Any:
    if isinstance(leaf, Quantized):
      return (leaf.values.astype(jnp.float32) * leaf.scale).astype(dtype)
    return leaf.astype(dtype) if leaf.dtype in (jnp.bfloat16, jnp.float16) else leaf

  # A `Quantized` is a NamedTuple and thus a subtree: treat it as one leaf.
  return jax.tree.map(restore, weights, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def num_bytes(weights: Any) -> int:
  """Returns the number of bytes of a tree's arrays, scales included."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))


def _map_large_kernels(function: Callable[[jax.Array], Any], params: Any, min_size: int) -> Any:
  def convert(leaf: jax.Array) -> Any:
    large = leaf.ndim > 1 and leaf.size >= min_size and jnp.issubdtype(leaf.dtype, jnp.floating)
    return function(leaf) if large else leaf

  return jax.tree.map(convert, params)


def _quantize_kernel(kernel: jax.Array) -> Quantized:
  kernel = kernel.astype(jnp.float32)
  # All axes but the output channels.
  inputs = tuple(range(kernel.ndim - 1))
  scale = jnp.abs(kernel).max(axis=inputs, keepdims=True) / _MAX_INT8
  # A channel of zeros has scale 0; divide by 1 there to avoid NaN.
  values = jnp.round(kernel / jnp.where(scale == 0, 1, scale))
  return Quantized(values.astype(jnp.int8), scale)
