"""Channels of a map, each scaled by a gate that has seen all of them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class SqueezeExcite(nn.Module):
  """Scales every channel by gate(W1 relu(W0 mean + b0) + b1), the mean being over the map.

  Hu et al. 2018 (arXiv:1709.01507): `reduced` is C / 16 and the gate the logistic function. Howard et al. 2019
  (arXiv:1905.02244): C / 4, and its piecewise linear form.

  Attributes:
    reduced: units between the two matrices.
    gate: maps the scores to [0, 1].
    dtype: of the computation; parameters stay float32.
  """

  reduced: int
  gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C]; the same in training."""
    squeezed = x.mean(axis=(1, 2), keepdims=True)
    hidden = nn.relu(nn.Dense(self.reduced, dtype=self.dtype, name="reduce")(squeezed))
    return x * self.gate(nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(hidden))
