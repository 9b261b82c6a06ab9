"""Weights in fewer bits: int8 with a scale for every output channel, or bfloat16. What is computed with them stays.

Pure functions on parameters, {layer name: parameters} or any other pytree. Large kernels are stored in fewer bits and
brought back by `dequantize` before they are used, inside the compiled program:

  weights = quantize(params)
  outputs, _ = network.apply(dequantize(weights), stats, image)

Biases, scales and shifts of normalisation, and kernels too small to matter stay as they are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SMALLEST = 1024  # numbers: below it a kernel is left as it is
_LARGEST = 127  # of int8, symmetric: -128 is not used


class Quantized(NamedTuple):
  """A kernel whose output channels are its last axis; it is values * scale.

  Attributes:
    values: int8 [..., O], -127 to 127.
    scale: float32 [1, ..., 1, O], a channel's largest magnitude / 127; 0 where a channel is nothing but zeros.
  """

  values: jax.Array
  scale: jax.Array


def quantize(params: Any, smallest: int = SMALLEST) -> Any:
  """Rounds every large kernel to int8, channel by channel, to the nearest: no weight moves by more than scale / 2.

  Symmetric, so that zero stays zero. A channel that holds a number which is not finite becomes NaN.

  Args:
    params: a pytree of arrays; what has two axes or more and at least `smallest` numbers is a large kernel.
    smallest: numbers.

  Returns:
    the same tree with a `Quantized` in the place of each large kernel.
  """
  return _of_large_kernels(_quantized, params, smallest)


def cast(params: Any, dtype: Any = jnp.bfloat16, smallest: int = SMALLEST) -> Any:
  """Stores every large kernel in a shorter floating-point dtype; arguments as `quantize` has them."""
  return _of_large_kernels(lambda kernel: kernel.astype(dtype), params, smallest)


def dequantize(weights: Any, dtype: Any = jnp.float32) -> Any:
  """Returns parameters that a network takes, from what `quantize` or `cast` has made.

  Args:
    weights: a pytree of arrays and `Quantized`.
    dtype: of what has been made smaller; the rest keeps its own.
  """

  def restored(leaf: Any) -> Any:
    if isinstance(leaf, Quantized):
      return (leaf.values.astype(jnp.float32) * leaf.scale).astype(dtype)
    return leaf.astype(dtype) if leaf.dtype in (jnp.bfloat16, jnp.float16) else leaf

  return jax.tree.map(restored, weights, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def bytes_of(weights: Any) -> int:
  """Returns how many bytes a tree's arrays take; scales count."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))


def _of_large_kernels(function: Callable[[jax.Array], Any], params: Any, smallest: int) -> Any:
  def changed(leaf: jax.Array) -> Any:
    large = leaf.ndim > 1 and leaf.size >= smallest and jnp.issubdtype(leaf.dtype, jnp.floating)
    return function(leaf) if large else leaf

  return jax.tree.map(changed, params)


def _quantized(kernel: jax.Array) -> Quantized:
  kernel = kernel.astype(jnp.float32)
  inputs = tuple(range(kernel.ndim - 1))
  scale = jnp.abs(kernel).max(axis=inputs, keepdims=True) / _LARGEST
  values = jnp.round(kernel / jnp.where(scale == 0, 1, scale))
  return Quantized(values.astype(jnp.int8), scale)
