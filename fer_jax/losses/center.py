"""Centre loss: pulls the features of each row towards the centre of its class; the centres follow the features.

Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition"
(doi:10.1007/978-3-319-46478-7_31). A row whose target is spread over several classes, by mixing or by annotators'
votes, counts for each class in proportion to its target. For one-hot targets the functions equal those of the paper.

B is the batch size, D the number of features and K the number of classes.
"""

import jax
import jax.numpy as jnp


def center_loss(features: jax.Array, target: jax.Array, centers: jax.Array) -> jax.Array:
  r"""Computes half the squared distance of each row to its centre, :math:`\frac12 \sum_k t_k \|x - c_k\|^2` (eq. 2).

  Args:
    features: Features of shape [B, D], any float dtype; computed in float32.
    target: Class distributions of shape [B, K]; rows sum to 1.
    centers: Class centres, float32 [K, D].

  Returns:
    float32 [B], one loss per row.
  """
  # Squared distances [B, K], weighted by the target and summed over the classes -> [B]
  return 0.5 * jnp.sum(target.astype(jnp.float32) * jnp.sum(_offsets(features, centers) ** 2, axis=-1), axis=-1)


def center_sums(features: jax.Array, target: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums the offsets from each class centre to the rows of its class, and the number of those rows.

  With several devices, sum both results over the devices.

  Args:
    features: Features of shape [B, D].
    target: Class distributions of shape [B, K]; rows sum to 1.
    centers: Class centres, float32 [K, D].

  Returns:
    Pair of the summed offsets from centre to row, float32 [K, D], and the number of rows per class, float32 [K]. Both
    are weighted by `target`.
  """
  target = target.astype(jnp.float32)
  return jnp.einsum("bk,bkd->kd", target, _offsets(features, centers)), target.sum(axis=0)


def updated_centers(centers: jax.Array, offsets: jax.Array, rows: jax.Array, rate: float) -> jax.Array:
  r"""Computes the centres of the next step, :math:`c_k + \alpha \frac{\sum (x - c_k)}{1 + n_k}` (eq. 4).

  The centre of a class without rows is unchanged.

  Args:
    centers: Class centres, float32 [K, D].
    offsets: Summed offsets from centre to row over the whole batch, float32 [K, D], from `center_sums`.
    rows: Number of rows per class in the whole batch, float32 [K], from `center_sums`.
    rate: Step size alpha, 0 to 1.

  Returns:
    float32 [K, D], the updated centres.
  """
  # The 1 in the denominator keeps the step finite for classes without rows.
  return centers + rate * offsets / (1 + rows[:, None])


def _offsets(features: jax.Array, centers: jax.Array) -> jax.Array:
  """Returns the offset from each centre to each row, float32 [B, K, D]."""
  # [B, 1, D] - [1, K, D] -> [B, K, D]
  return features.astype(jnp.float32)[:, None] - centers[None]
