"""Convolution, batch normalisation, activation: one hidden layer of a network."""

import functools
import operator
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fer_jax.layers.convolution import convolve

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": jnp.tanh, "elu": nn.elu}


class ConvUnit(nn.Module):
  """Convolves, normalises over the (global) batch, activates.

  Several inputs are convolved as if concatenated channel-wise, each scaled by a learned weight of its own. The
  concatenation is never made: the kernel is cut along its input channels and the parts' results are added, which is
  the same sum, needs no copy of the maps and is faster. The weights are folded into the kernel: scaling
  the maps themselves would cost a gradient with respect to the convolution's input, a third of a training step.

  Attributes:
    features: output channels.
    kernel_size: of the convolution, both axes.
    stride: both axes.
    activation: a key of ACTIVATIONS.
    weighted_inputs: learn a weight for each input (the parameter `connection`, [inputs], ones at first).
    dtype: of the computation; parameters and statistics stay float32. Where float16 overflows, the convolution's
      result is its largest number, so that normalisation stays finite.
    axis_name: mapped axis of devices, over which the statistics are averaged.
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
    """Maps inputs [B, H, W, C_i] to [B, H / stride, W / stride, features]."""
    channels = [maps.shape[-1] for maps in inputs]
    shape = (self.kernel_size, self.kernel_size, sum(channels), self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
    parts = jnp.split(kernel, np.cumsum(channels[:-1]), axis=2) if len(inputs) > 1 else [kernel]
    if self.weighted_inputs:
      weights = self.param("connection", nn.initializers.ones, (len(inputs),), jnp.float32)
      parts = [weights[i] * part for i, part in enumerate(parts)]
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
  """Casts, with the dtype's largest number in place of infinity where the dtype is float16."""
  if dtype != jnp.float16:
    return maps.astype(dtype)
  most = float(jnp.finfo(dtype).max)
  return jnp.clip(maps, -most, most).astype(dtype)
