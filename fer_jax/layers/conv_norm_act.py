"""Convolution, batch normalisation, activation, padded alike on both sides: the layer of the ImageNet families."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.convolution import Conv


class ConvNormAct(nn.Module):
  """Convolves, normalises over the (global) batch, activates.

  `ConvUnit` pads as TensorFlow does, which at stride 2 depends on the size of the map and is lopsided. Here every
  side gets the same number of zeros, as in PyTorch, so that published weights give their published logits.

  Attributes:
    features: output channels.
    kernel_size: both axes.
    stride: both axes.
    padding: zeros on each side; None for kernel_size // 2.
    groups: of channels that are convolved apart; the number of input channels makes the convolution depthwise.
    normalize: False puts a bias in the place of the normalisation.
    activation: None for none.
    epsilon: added to the variance.
    kernel_init: draws the kernel.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  padding: int | None = None
  groups: int = 1
  normalize: bool = True
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  epsilon: float = 1e-5
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, (H + 2 padding - kernel_size) // stride + 1, the same of W, features]."""
    padding = self.kernel_size // 2 if self.padding is None else self.padding
    x = Conv(
      self.features,
      self.kernel_size,
      stride=self.stride,
      padding=padding,
      groups=self.groups,
      use_bias=not self.normalize,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      name="conv",
    )(x)
    if self.normalize:
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=self.epsilon,
        dtype=self.dtype,
        axis_name=self.axis_name,
        name="norm",
      )(x)
    return x if self.activation is None else self.activation(x)
