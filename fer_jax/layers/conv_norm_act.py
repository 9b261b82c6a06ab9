"""Convolution with symmetric padding, batch normalisation and activation: the basic layer of the ImageNet models."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv


class ConvNormAct(nn.Module):
  """Convolution followed by normalisation over the (global) batch and an activation.

  The padding is symmetric, as in PyTorch, so that published weights reproduce their published logits. `ConvUnit`
  instead pads as TensorFlow does: at stride 2 that padding depends on the size of the feature map and is asymmetric.

  Attributes:
    features: Number of output channels.
    kernel_size: Size of the kernel along both axes.
    stride: Stride along both axes.
    padding: Number of zeros on each side; None means kernel_size // 2.
    groups: Number of channel groups that are convolved separately; the number of input channels makes the
      convolution depthwise.
    normalize: Whether to apply batch normalisation; False replaces it with a bias in the convolution.
    activation: Activation function; None for no activation.
    epsilon: Constant added to the variance.
    kernel_init: Initializer of the kernel.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
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
    """Maps [B, H, W, C] to [B, H', W', features], H' = (H + 2 padding - kernel_size) // stride + 1, W' likewise."""
    padding = self.kernel_size // 2 if self.padding is None else self.padding
    x = Conv(
      self.features,
      self.kernel_size,
      stride=self.stride,
      padding=padding,
      groups=self.groups,
      # A bias before batch normalisation would be cancelled by the subtracted mean.
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
