"""Attention along the two axes of a map. Hou et al. 2021 (arXiv:2103.02907)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

LEAST = 8  # channels between the two convolutions


class CoordinateAttention(nn.Module):
  """Scales every value by a gate of its row times a gate of its column; a gate has a number for each channel.

  The map is averaged along x, to H rows, and along y, to W columns. Laid behind one another, these H + W vectors pass
  one 1x1 convolution to C / reduction channels, normalisation and activation; parted again, the rows pass a 1x1
  convolution back to C channels and a sigmoid, and the columns another. The defaults are those of the authors' code,
  which has a bias in the first convolution, of no use before a normalisation and left out here.

  Attributes:
    reduction: C / reduction channels between the convolutions, at least LEAST.
    activation: of the vectors.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
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
    vectors = jnp.concatenate([x.mean(axis=2), x.mean(axis=1)], axis=1)
    # A 1x1 convolution of vectors in a row is a matrix product, which needs less preparation.
    vectors = nn.Dense(reduced, use_bias=False, kernel_init=init, dtype=self.dtype, name="reduce")(vectors)
    norm = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )
    rows, columns = jnp.split(self.activation(norm(vectors)), [height], axis=1)
    rows = nn.sigmoid(nn.Dense(channels, kernel_init=init, dtype=self.dtype, name="rows")(rows))
    columns = nn.sigmoid(nn.Dense(channels, kernel_init=init, dtype=self.dtype, name="columns")(columns))
    return x * rows[:, :, None, :] * columns[:, None, :, :]
