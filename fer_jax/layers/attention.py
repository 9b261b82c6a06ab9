"""Attention over the channels of a map, over its places, and over both. Li & Pan, after CBAM (arXiv:1807.06521)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.convolution import Conv


class ChannelAttention(nn.Module):
  """Scales every channel by sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)), both taken over the map (eq. 2).

  The paper prints the ReLU in its text alone, no biases and no number of hidden units: there are no biases here, and
  the default reduction is CBAM's.

  Attributes:
    reduction: C / reduction hidden units, at least one.
    dtype: of the computation; parameters stay float32.
  """

  reduction: int = 16
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; the same in training."""
    channels = x.shape[-1]
    pooled = jnp.stack([x.mean(axis=(1, 2)), x.max(axis=(1, 2))])
    reduced = max(channels // self.reduction, 1)
    hidden = nn.relu(_linear(reduced, self.dtype, "reduce")(pooled))
    gate = nn.sigmoid(_linear(channels, self.dtype, "expand")(hidden).sum(axis=0))
    return x * gate[:, None, None, :]


class SpatialAttention(nn.Module):
  """Scales every place by sigmoid(convolution of [mean; max]), both taken over the channels (eq. 3).

  Attributes:
    kernel_size: of the convolution, both axes. It has no bias.
    dtype: of the computation; parameters stay float32.
  """

  kernel_size: int = 7
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; the same in training."""
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
    return x * nn.sigmoid(conv(pooled))


class MixedAttention(nn.Module):
  """Multiplies maps F by a fusion of what both attentions make of them: relu(F * fuse([F_C; F_S])) (fig. 5).

  The attentions stand side by side, both reading F. How their results are fused is not printed: here it is by a 1x1
  convolution from 2 C channels to C with a bias, plus one. So the factor starts around one; around zero, it would turn
  the sign of half of what F holds before anything is learned. It is not squashed, since nothing of the kind is printed.

  Attributes:
    reduction: of the channel attention.
    kernel_size: of the spatial attention.
    dtype: of the computation; parameters stay float32.
  """

  reduction: int = 16
  kernel_size: int = 7
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C], none below zero; the same in training."""
    channel = ChannelAttention(self.reduction, dtype=self.dtype, name="channel")(x, train=train)
    spatial = SpatialAttention(self.kernel_size, dtype=self.dtype, name="spatial")(x, train=train)
    fuse = Conv(
      x.shape[-1],
      kernel_size=1,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name="fuse",
    )
    return nn.relu(x * (1 + fuse(jnp.concatenate([channel, spatial], axis=-1))))


def _linear(features: int, dtype: DTypeLike, name: str) -> nn.Dense:
  return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=dtype, name=name)
