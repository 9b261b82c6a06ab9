"""Classifier with channel attention: scores the channels of its input features before the linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


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
