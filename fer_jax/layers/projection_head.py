"""Convolutions between a hidden layer and its local loss: they are trained with the layer and not used at inference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv


class ProjectionHead(nn.Module):
  """3x3 convolutions with a ReLU between them.

  Attributes:
    layers: Number of convolutions, at least 1.
    channels: Number of output channels of each.
    dtype: Dtype of the computation; parameters stay float32.
  """

  layers: int
  channels: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    """Maps feature maps [B, H, W, C] to [B, H, W, channels]."""
    for i in range(self.layers):
      last = i == self.layers - 1
      # The kernel is centred, which removes a bias of the last convolution.
      maps = Conv(self.channels, 3, padding=1, use_bias=not last, dtype=self.dtype, name=f"conv{i + 1}")(maps)
      maps = maps if last else nn.relu(maps)
    return maps
