"""A classifier that scores the channels of its features before it reads them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class AttentiveClassifier(nn.Module):
  """Weighs each channel by a score in (0, 2) from fully connected layers, then classifies.

  The features are first normalised over the (global) batch: averaged activations vary by a small part of their
  mean, and a linear classifier reads such features only slowly. The scores are 2 sigmoid(W1 relu(W0 x)) with W1
  zero at first: attention starts as the identity and so cannot hide a channel before it has been read once.
  (Han et al. 2023, "layer_11"; the layer sizes are not printed.) Where a channel is read in several cells of a grid,
  its score comes from the cells' averages and counts for all of them.

  Attributes:
    num_classes: K.
    cells: places that each channel is read in; the features are D = cells C numbers, cell after cell.
    reduction: the hidden layer of the scores has C / reduction units.
    dropout: share of the features set to zero in training.
    dtype: of the computation; the logits are float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
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
    by_cell = features.reshape(features.shape[0], self.cells, -1)
    channels = by_cell.mean(axis=1)
    hidden = nn.relu(nn.Dense(max(channels.shape[-1] // self.reduction, 1), dtype=self.dtype)(channels))
    scores = nn.Dense(channels.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros)(hidden)
    weighted = (by_cell * (2 * nn.sigmoid(scores))[:, None, :]).reshape(features.shape)
    weighted = nn.Dropout(self.dropout, deterministic=not train)(weighted)
    return nn.Dense(self.num_classes, dtype=self.dtype)(weighted).astype(jnp.float32)
