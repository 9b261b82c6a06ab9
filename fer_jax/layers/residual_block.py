"""Residual blocks of ResNet, with or without squeeze-and-excitation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.attention import SqueezeExcite
from fer_jax.layers.conv_norm_act import ConvNormAct

EXPANSION = 4  # ratio of a bottleneck's output channels to its inner channels
REDUCTION = 16  # ratio of a block's channels to the hidden units of its gate


class ResidualBlock(nn.Module):
  """Residual block: relu(shortcut(x) + branch(x)), where the branch has two or three convolutions.

  He et al. 2016 (arXiv:1512.03385) in torchvision's variant ("v1.5"): the stride of a bottleneck is on its 3x3
  convolution, not on the first 1x1 convolution. Where the shapes differ, the shortcut is a strided 1x1 convolution.
  The optional gate scales the residual branch only (Hu et al. 2018, arXiv:1709.01507).

  Attributes:
    features: Number of channels of the 3x3 convolutions.
    stride: Stride of the whole block.
    bottleneck: Whether the branch is 1x1, 3x3, 1x1 with EXPANSION * features output channels; otherwise it is
      3x3, 3x3.
    squeeze_excite: Whether to gate the channels of the residual branch.
    shortcut: Whether to add the shortcut; False leaves a plain stack of two or three convolutions.
    kernel_init: Initializer of the convolution kernels.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
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
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features or EXPANSION * features]."""
    unit = partial(ConvNormAct, kernel_init=self.kernel_init, dtype=self.dtype, axis_name=self.axis_name)
    channels = self.features * (EXPANSION if self.bottleneck else 1)
    if self.bottleneck:
      y = unit(self.features, kernel_size=1, name="conv1")(x, train=train)
      y = unit(self.features, stride=self.stride, name="conv2")(y, train=train)
      # No activation: the ReLU follows the addition.
      y = unit(channels, kernel_size=1, activation=None, name="conv3")(y, train=train)
    else:
      y = unit(self.features, stride=self.stride, name="conv1")(x, train=train)
      y = unit(self.features, activation=None, name="conv2")(y, train=train)
    if self.squeeze_excite:
      y = SqueezeExcite(max(channels // REDUCTION, 1), dtype=self.dtype, name="squeeze_excite")(y, train=train)
    if not self.shortcut:
      return nn.relu(y)
    if self.stride != 1 or x.shape[-1] != channels:
      # Projects the shortcut to the shape of the branch.
      downsample = unit(channels, kernel_size=1, stride=self.stride, activation=None, name="downsample")
      x = downsample(x, train=train)
    return nn.relu(x + y)
