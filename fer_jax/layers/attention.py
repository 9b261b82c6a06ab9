"""Channel attention, spatial attention and their fusion. Li & Pan, after CBAM (arXiv:1807.06521)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv


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


class AttentiveClassifier(nn.Module):
  """Linear classifier that first multiplies each channel by a learned score in (0, 2).

  The features are first normalised over the (global) batch. Spatially averaged activations vary by only a small
  fraction of their mean, and a linear classifier learns slowly from such features. The scores are
  2 sigmoid(W1 relu(W0 x)) with W1 initialised to zero: all scores start at 1, so the attention starts as the identity
  and cannot suppress a channel before training (Han et al. 2023, "layer_11"; the paper does not give the layer sizes).
  If the features of a channel are pooled over several grid cells, one score per channel is computed from the average
  over the cells and applied to all of them.

  Attributes:
    num_classes: Number of classes, K.
    cells: Number of grid cells per channel. The features have D = cells * C values, one cell after the other.
    reduction: Reduction factor of the hidden layer of the scores, which has C / reduction units, at least one.
    dropout: Fraction of the features set to zero during training.
    dtype: Dtype of the computation; the logits are float32.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
  """

  num_classes: int
  cells: int = 1
  reduction: int = 8
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, features: jax.Array, train: bool) -> jax.Array:
    """Maps features [B, D] to logits, float32 [B, K]."""
    features = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )(features)
    # [B, cells*C] -> [B, cells, C]
    by_cell = features.reshape(features.shape[0], self.cells, -1)
    # [B, cells, C] -> [B, C]
    channels = by_cell.mean(axis=1)
    hidden = nn.relu(nn.Dense(max(channels.shape[-1] // self.reduction, 1), dtype=self.dtype)(channels))
    # Zero kernel: 2 sigmoid(0) = 1, so every channel starts unchanged.
    scores = nn.Dense(channels.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros)(hidden)
    # The score of a channel is broadcast over its cells. [B, cells, C] -> [B, cells*C]
    weighted = (by_cell * (2 * nn.sigmoid(scores))[:, None, :]).reshape(features.shape)
    weighted = nn.Dropout(self.dropout, deterministic=not train)(weighted)
    return nn.Dense(self.num_classes, dtype=self.dtype)(weighted).astype(jnp.float32)


MIN_CHANNELS = 8  # minimum number of channels between the two convolutions


class CoordinateAttention(nn.Module):
  """Coordinate attention: scales each value by a gate of its row and a gate of its column, both per channel.

  The feature map is averaged along x to H row vectors and along y to W column vectors. The H + W vectors are
  concatenated and pass a 1x1 convolution to C / reduction channels, normalisation and an activation. They are then
  split again: the row vectors pass a 1x1 convolution back to C channels and a sigmoid, and the column vectors pass
  another. The defaults are those of the authors' code, except that the bias of the first convolution is omitted: the
  normalisation that follows cancels it.

  Attributes:
    reduction: Reduction factor: C / reduction channels between the convolutions, at least LEAST.
    activation: Activation function of the concatenated vectors.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
  """

  reduction: int = 32
  activation: Callable[[jax.Array], jax.Array] = nn.hard_swish
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]."""
    _, height, _, channels = x.shape
    init = nn.initializers.he_normal()
    reduced = max(channels // self.reduction, MIN_CHANNELS)
    # Row means [B, H, C] and column means [B, W, C] -> [B, H + W, C]
    vectors = jnp.concatenate([x.mean(axis=2), x.mean(axis=1)], axis=1)
    # A 1x1 convolution of a sequence is a matrix product. Dense computes it without the set-up of a convolution.
    # [B, H + W, C] -> [B, H + W, reduced]
    vectors = nn.Dense(reduced, use_bias=False, kernel_init=init, dtype=self.dtype, name="reduce")(vectors)
    norm = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )
    # [B, H + W, reduced] -> [B, H, reduced] and [B, W, reduced]
    rows, columns = jnp.split(self.activation(norm(vectors)), [height], axis=1)
    rows = nn.sigmoid(nn.Dense(channels, kernel_init=init, dtype=self.dtype, name="rows")(rows))
    columns = nn.sigmoid(nn.Dense(channels, kernel_init=init, dtype=self.dtype, name="columns")(columns))
    # Row gates [B, H, 1, C] and column gates [B, 1, W, C] are broadcast over the feature map.
    return x * rows[:, :, None, :] * columns[:, None, :, :]


class SqueezeExcite(nn.Module):
  """Squeeze-and-excitation block: x * gate(W1 relu(W0 mean + b0) + b1), with the mean over all pixels.

  Hu et al. 2018 (arXiv:1709.01507) use `reduced` = C / 16 and the logistic function as the gate. Howard et al. 2019
  (arXiv:1905.02244) use C / 4 and the piecewise linear approximation of the logistic function.

  Attributes:
    reduced: Number of hidden units between the two matrices.
    gate: Function that maps the scores to [0, 1].
    dtype: Dtype of the computation; parameters stay float32.
  """

  reduced: int
  gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; `train` has no effect."""
    # [B, H, W, C] -> [B, 1, 1, C]
    squeezed = x.mean(axis=(1, 2), keepdims=True)
    # [B, 1, 1, C] -> [B, 1, 1, reduced]
    hidden = nn.relu(nn.Dense(self.reduced, dtype=self.dtype, name="reduce")(squeezed))
    return x * self.gate(nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(hidden))
