"""A convolution taken apart: over space channel by channel, then over channels point by point."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.convolution import Conv


class SeparableConv(nn.Module):
  """Convolves each channel with a kernel of its own, mixes channels by a 1x1 convolution, normalises, activates.

  Nothing stands between the two (Chollet 2017, arXiv:1610.02357).

  Attributes:
    features: output channels.
    kernel_size: of the depthwise convolution, both axes.
    padding: zeros on each side; None for kernel_size // 2.
    activation: None for none.
    epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
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
    """Maps [B, H, W, C] to [B, H + 2 padding - kernel_size + 1, the same of W, features]."""
    padding = self.kernel_size // 2 if self.padding is None else self.padding
    x = Conv(
      x.shape[-1],
      self.kernel_size,
      padding=padding,
      groups=x.shape[-1],
      use_bias=False,
      dtype=self.dtype,
      name="depthwise",
    )(x)
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
