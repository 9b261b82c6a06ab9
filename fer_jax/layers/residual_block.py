"""The residual blocks of ResNet, with or without squeeze and excitation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.squeeze_excite import SqueezeExcite

EXPANSION = 4  # channels that leave a bottleneck, against those inside
REDUCTION = 16  # channels of a block, against the units that gate them


class ResidualBlock(nn.Module):
  """Adds the block's input to what two or three convolutions make of it, then activates.

  He et al. 2016 (arXiv:1512.03385), in the form of torchvision ("v1.5"): the stride is on the 3x3 convolution of a
  bottleneck, not on the 1x1 before it. The input passes a strided 1x1 convolution where its shape would not fit.
  The gate, if any, scales the residual branch alone (Hu et al. 2018, arXiv:1709.01507).

  Attributes:
    features: channels of the 3x3 convolutions.
    stride: of the whole.
    bottleneck: 1x1, 3x3, 1x1 to EXPANSION features channels; else 3x3, 3x3.
    squeeze_excite: gate the channels of the residual branch.
    shortcut: False leaves the shortcut branch out, its convolution too: two or three plain convolutions remain.
    kernel_init: draws the kernels of the convolutions.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
  """

  features: int
  stride: int = 1
  bottleneck: bool = False
  squeeze_excite: bool = False
  shortcut: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features, or 4 times that]."""
    unit = partial(ConvNormAct, kernel_init=self.kernel_init, dtype=self.dtype, axis_name=self.axis_name)
    channels = self.features * (EXPANSION if self.bottleneck else 1)
    if self.bottleneck:
      y = unit(self.features, kernel_size=1, name="conv1")(x, train=train)
      y = unit(self.features, stride=self.stride, name="conv2")(y, train=train)
      y = unit(channels, kernel_size=1, activation=None, name="conv3")(y, train=train)
    else:
      y = unit(self.features, stride=self.stride, name="conv1")(x, train=train)
      y = unit(self.features, activation=None, name="conv2")(y, train=train)
    if self.squeeze_excite:
      y = SqueezeExcite(max(channels // REDUCTION, 1), dtype=self.dtype, name="squeeze_excite")(y, train=train)
    if not self.shortcut:
      return nn.relu(y)
    if self.stride != 1 or x.shape[-1] != channels:
      downsample = unit(channels, kernel_size=1, stride=self.stride, activation=None, name="downsample")
      x = downsample(x, train=train)
    return nn.relu(x + y)
