r"""Centre loss: features are drawn to the centre of their class, which follows them.

Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition"
(doi:10.1007/978-3-319-46478-7_31). Rows whose target is spread over classes, by mixing or votes, count for each of
them by its share; with one-hot targets both functions are the paper's.

Let B be the batch, D the number of features and K the number of classes.
"""

import jax
import jax.numpy as jnp


def center_loss(features: jax.Array, target: jax.Array, centers: jax.Array) -> jax.Array:
  r"""Computes half the squared distance of each row to its centre, :math:`\frac12 \sum_k t_k \|x - c_k\|^2` (eq. 2).

  Args:
    features: [B, D], any float dtype; the arithmetic is float32.
    target: [B, K], rows that sum to 1.
    centers: float32 [K, D].

  Returns:
    float32 [B].
  """
  return 0.5 * jnp.sum(target.astype(jnp.float32) * jnp.sum(_away(features, centers) ** 2, axis=-1), axis=-1)


def pull(features: jax.Array, target: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums up how the rows of a batch would have each centre move; of several devices, sum what each returns.

  Args:
    features: [B, D].
    target: [B, K].
    centers: float32 [K, D].

  Returns:
    the sum of the ways from a centre to its rows, float32 [K, D], and how many rows these are, float32 [K].
  """
  target = target.astype(jnp.float32)
  return jnp.einsum("bk,bkd->kd", target, _away(features, centers)), target.sum(axis=0)


def moved(centers: jax.Array, ways: jax.Array, rows: jax.Array, rate: float) -> jax.Array:
  r"""Returns the centres of the next step, :math:`c_k + \alpha \frac{\sum (x - c_k)}{1 + n_k}` (eq. 4).

  A class without rows stays where it is.

  Args:
    centers: float32 [K, D].
    ways: of the whole batch, float32 [K, D], from `pull`.
    rows: of the whole batch, float32 [K].
    rate: alpha, 0 to 1.
  """
  return centers + rate * ways / (1 + rows[:, None])


def _away(features: jax.Array, centers: jax.Array) -> jax.Array:
  """Returns the way from each centre to each row, float32 [B, K, D]."""
  return features.astype(jnp.float32)[:, None] - centers[None]
