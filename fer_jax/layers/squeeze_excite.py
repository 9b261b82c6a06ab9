"""Squeeze-and-excitation: scales each channel by a gate computed from the global averages of all channels."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


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
