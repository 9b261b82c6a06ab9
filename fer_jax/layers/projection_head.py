"""Dense layers between a hidden layer and its local loss: they are trained with it and not used at inference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class ProjectionHead(nn.Module):
  """Dense layers with a ReLU between them.

  Attributes:
    layers: Number of dense layers, at least 1.
    features: Number of output features of each.
    dtype: Dtype of the computation; parameters stay float32.
  """

  layers: int
  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, rows: jax.Array) -> jax.Array:
    """Maps rows [b, d] to [b, features]."""
    for i in range(self.layers):
      last = i == self.layers - 1
      # The kernel is centred, which removes a bias of the last layer.
      dense = nn.Dense(
        self.features,
        use_bias=not last,
        dtype=self.dtype,
        kernel_init=nn.initializers.he_normal(),
        name=f"dense{i + 1}",
      )
      rows = dense(rows) if last else nn.relu(dense(rows))
    return rows
