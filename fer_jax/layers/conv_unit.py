"""Convolution, batch normalisation and activation: one hidden layer of a network."""

import functools
import operator
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import convolve

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": jnp.tanh, "elu": nn.elu}


class ConvUnit(nn.Module):
  """Convolution of one or more inputs, followed by normalisation over the (global) batch and an activation.

  Several inputs are convolved as if they were concatenated along the channels, each optionally scaled by a learned
  weight. The concatenation is never built: the kernel is split along its input channels and the results of the parts
  are added. The sum is the same, needs no copy of the feature maps and is faster. The weights are multiplied into the
  kernel: scaling the feature maps themselves would require a gradient with respect to the input of the convolution,
  a third of the cost of each training step.

  Attributes:
    features: Number of output channels.
    kernel_size: Size of the kernel along both axes.
    stride: Stride along both axes.
    activation: Name of the activation function, a key of ACTIVATIONS.
    weighted_inputs: Whether to learn one weight per input (the parameter `connection` of shape [inputs], initialised
      to ones).
    dtype: Dtype of the computation; parameters and statistics stay float32. Where float16 overflows, the result of the
      convolution is clipped to the largest float16 number, which keeps the normalisation finite.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  activation: str = "relu"
  weighted_inputs: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """Maps inputs [B, H, W, C_i] to [B, ceil(H / stride), ceil(W / stride), features]."""
    channels = [maps.shape[-1] for maps in inputs]
    shape = (self.kernel_size, self.kernel_size, sum(channels), self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
    # One kernel slice per input: [k, k, sum(C_i), features] -> [k, k, C_i, features]
    parts = jnp.split(kernel, np.cumsum(channels[:-1]), axis=2) if len(inputs) > 1 else [kernel]
    if self.weighted_inputs:
      weights = self.param("connection", nn.initializers.ones, (len(inputs),), jnp.float32)
      # Scaling the kernel slice is equivalent to scaling its input, and needs no gradient of the input.
      parts = [weights[i] * part for i, part in enumerate(parts)]
    # The sum of the partial convolutions equals the convolution of the concatenated inputs.
    x = functools.reduce(operator.add, map(self._convolve, inputs, parts))
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )(_saturate(x, self.dtype))
    return ACTIVATIONS[self.activation](x)

  def _convolve(self, maps: jax.Array, kernel: jax.Array) -> jax.Array:
    strides = (self.stride, self.stride)
    convolved = convolve(_saturate(maps, self.dtype), _saturate(kernel, self.dtype), strides, "SAME")
    return _saturate(convolved, self.dtype)


def _saturate(maps: jax.Array, dtype: DTypeLike) -> jax.Array:
  """Casts to `dtype`; for float16, values beyond its range are clipped to its largest finite number."""
  if dtype != jnp.float16:
    return maps.astype(dtype)
  limit = float(jnp.finfo(dtype).max)
  return jnp.clip(maps, -limit, limit).astype(dtype)
