"""Fully connected layers: a hidden one and the classifier."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class LinearUnit(nn.Module):
  """Drops inputs, multiplies, activates.

  Attributes:
    features: outputs.
    activation: of the outputs.
    dropout: share of the inputs set to zero in training.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, D] to [B, features]."""
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.Dense(self.features, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name="linear")(x)
    return self.activation(x)


class LinearClassifier(nn.Module):
  """Drops features, multiplies: the last layer of most networks.

  Attributes:
    num_classes: K.
    dropout: share of the features set to zero in training.
    kernel_init: draws the kernel; the bias is zero.
    dtype: of the computation; the logits are float32.
  """

  num_classes: int
  dropout: float = 0.0
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array, train: bool) -> jax.Array:
    """Maps features [B, D] to logits, float32 [B, K]."""
    features = nn.Dropout(self.dropout, deterministic=not train)(features)
    linear = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=self.kernel_init, name="linear")
    return linear(features).astype(jnp.float32)
