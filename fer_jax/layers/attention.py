"""Channel attention, spatial attention and their fusion. Li & Pan, after CBAM (arXiv:1807.06521)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.convolution import Conv


class ChannelAttention(nn.Module):
  """Channel attention: scales each channel by sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)) (eq. 2).

  Mean and maximum are taken over all pixels. The paper mentions the ReLU only in its text and gives neither biases nor
  the number of hidden units. This layer has no biases, and its default reduction is that of CBAM.

  Attributes:
    reduction: Reduction factor of the hidden layer, which has C / reduction units, at least one.
    dtype: Dtype of the computation; parameters stay float32.
  """

  reduction: int = 16
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; `train` has no effect."""
    channels = x.shape[-1]
    # Both poolings share W0 and W1, so they are stacked into one batch. [B, H, W, C] -> [2, B, C]
    pooled = jnp.stack([x.mean(axis=(1, 2)), x.max(axis=(1, 2))])
    reduced = max(channels // self.reduction, 1)
    hidden = nn.relu(_linear(reduced, self.dtype, "reduce")(pooled))
    # [2, B, reduced] -> [2, B, C], summed over the two poolings -> [B, C]
    gate = nn.sigmoid(_linear(channels, self.dtype, "expand")(hidden).sum(axis=0))
    return x * gate[:, None, None, :]


class SpatialAttention(nn.Module):
  """Spatial attention: scales each pixel by sigmoid(convolution of [mean; max]) (eq. 3).

  Mean and maximum are taken over the channels.

  Attributes:
    kernel_size: Kernel size of the convolution along both axes. The convolution has no bias.
    dtype: Dtype of the computation; parameters stay float32.
  """

  kernel_size: int = 7
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; `train` has no effect."""
    # [B, H, W, C] -> [B, H, W, 2]
    pooled = jnp.concatenate([x.mean(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)], axis=-1)
    conv = Conv(
      1,
      self.kernel_size,
      padding=self.kernel_size // 2,
      use_bias=False,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name="conv",
    )
    # [B, H, W, 2] -> [B, H, W, 1], broadcast over the channels
    return x * nn.sigmoid(conv(pooled))


class MixedAttention(nn.Module):
  """Fused channel and spatial attention of feature maps F: relu(F * fuse([F_C; F_S])) (fig. 5).

  Both attentions take F as input. The paper does not specify the fusion. Here it is a 1x1 convolution from 2 C to C
  channels with a bias, plus one. The factor therefore starts around 1; a factor around 0 would flip the sign of half
  of the values of F before any training. The factor is not squashed, since the paper mentions no squashing function.

  Attributes:
    reduction: Reduction factor of the channel attention.
    kernel_size: Kernel size of the spatial attention.
    dtype: Dtype of the computation; parameters stay float32.
  """

  reduction: int = 16
  kernel_size: int = 7
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to non-negative [B, H, W, C]; `train` has no effect."""
    channel = ChannelAttention(self.reduction, dtype=self.dtype, name="channel")(x, train=train)
    spatial = SpatialAttention(self.kernel_size, dtype=self.dtype, name="spatial")(x, train=train)
    fuse = Conv(
      x.shape[-1],
      kernel_size=1,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name="fuse",
    )
    # The convolution outputs start around 0, so 1 + fuse(...) starts as the identity on average.
    return nn.relu(x * (1 + fuse(jnp.concatenate([channel, spatial], axis=-1))))


def _linear(features: int, dtype: DTypeLike, name: str) -> nn.Dense:
  return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=dtype, name=name)
