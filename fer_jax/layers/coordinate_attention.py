"""Coordinate attention: gates along the two spatial axes of a feature map. Hou et al. 2021 (arXiv:2103.02907)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

LEAST = 8  # minimum number of channels between the two convolutions


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
    reduced = max(channels // self.reduction, LEAST)
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
