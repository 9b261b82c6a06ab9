"""Depthwise separable convolution: a spatial convolution per channel, then a 1x1 convolution across channels."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv
from fer_jax.layers.conv_norm_act import ConvNormAct


class SeparableConv(nn.Module):
  """Depthwise convolution followed by a 1x1 convolution, batch normalisation and an activation.

  There is no normalisation or activation between the two convolutions (Chollet 2017, arXiv:1610.02357).

  Attributes:
    features: Number of output channels.
    kernel_size: Size of the depthwise kernel along both axes.
    padding: Number of zeros on each side; None means kernel_size // 2.
    activation: Activation function; None for no activation.
    epsilon: Constant added to the variance.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
  """

  features: int
  kernel_size: int = 3
  padding: int | None = None
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  epsilon: float = 1e-5
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H', W', features] with H' = H + 2 padding - kernel_size + 1, W' likewise."""
    padding = self.kernel_size // 2 if self.padding is None else self.padding
    # One kernel per channel: groups = channels. [B, H, W, C] -> [B, H', W', C]
    x = Conv(
      x.shape[-1],
      self.kernel_size,
      padding=padding,
      groups=x.shape[-1],
      use_bias=False,
      dtype=self.dtype,
      name="depthwise",
    )(x)
    # Mixes the channels at each pixel. [B, H', W', C] -> [B, H', W', features]
    pointwise = ConvNormAct(
      self.features,
      kernel_size=1,
      activation=self.activation,
      epsilon=self.epsilon,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name="pointwise",
    )
    return pointwise(x, train=train)
