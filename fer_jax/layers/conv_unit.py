"""Convolution, batch normalisation, activation: one hidden layer of a network."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": jnp.tanh, "elu": nn.elu}


class ConvUnit(nn.Module):
  """Convolves, normalises over the (global) batch, activates.

  Several inputs are concatenated channel-wise, each scaled by a learned weight of its own. The weights are folded
  into the kernel: scaling the maps themselves would cost a gradient with respect to the convolution's
  input, a third of a training step.

  Attributes:
    features: output channels.
    kernel_size: of the convolution, both axes.
    stride: both axes.
    activation: a key of ACTIVATIONS.
    weighted_inputs: learn a weight for each input (the parameter `connection`, [inputs], ones at first).
    add_coarser: treat the last input as a coarser map that is upsampled (nearest) and added before the
      activation: the lateral connection of a feature pyramid.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  activation: str = "relu"
  weighted_inputs: bool = False
  add_coarser: bool = False
  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """Maps inputs [B, H, W, C_i] to [B, H / stride, W / stride, features]."""
    maps, coarser = (inputs[:-1], inputs[-1]) if self.add_coarser else (inputs, None)
    channels = [m.shape[-1] for m in maps]
    shape = (self.kernel_size, self.kernel_size, sum(channels), self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
    if self.weighted_inputs:
      weights = self.param("connection", nn.initializers.ones, (len(maps),), jnp.float32)
      kernel = kernel * _per_channel(weights, channels)[None, None, :, None]
    x = jax.lax.conv_general_dilated(
      jnp.concatenate([m.astype(self.dtype) for m in maps], axis=-1),
      kernel.astype(self.dtype),
      window_strides=(self.stride, self.stride),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )(x)
    if coarser is not None:
      x = x + jax.image.resize(coarser.astype(x.dtype), (*x.shape[:3], coarser.shape[-1]), "nearest")
    return ACTIVATIONS[self.activation](x)


def _per_channel(weights: jax.Array, channels: Sequence[int]) -> jax.Array:
  """Repeats the weight of each input for every one of its channels: [inputs] -> [sum of channels]."""
  return jnp.concatenate([jnp.broadcast_to(weights[i], (n,)) for i, n in enumerate(channels)])
