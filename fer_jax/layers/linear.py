"""Fully connected layers: a hidden layer and the classifier."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class LinearUnit(nn.Module):
  """Fully connected hidden layer: dropout on the inputs, a linear map, an activation.

  Attributes:
    features: Number of outputs.
    activation: Activation function.
    dropout: Fraction of the inputs set to zero during training.
    dtype: Dtype of the computation; parameters stay float32.
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
  """Linear classifier with dropout on its input features: the last layer of most networks.

  Attributes:
    num_classes: Number of classes, K.
    dropout: Fraction of the features set to zero during training.
    kernel_init: Initializer of the kernel; the bias starts at zero.
    dtype: Dtype of the computation; the logits are float32.
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
    # Cast so that softmax and loss are computed in float32.
    return linear(features).astype(jnp.float32)
