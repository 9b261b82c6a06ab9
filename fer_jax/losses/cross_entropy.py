"""Softmax cross-entropy against a distribution over the classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
  r"""Computes the cross-entropy of each row, :math:`-\sum_k t_k \log \mathrm{softmax}(z)_k`.

  Let B be the batch and K the number of classes.

  Args:
    logits: [B, K], any float dtype; the arithmetic is float32.
    target: [B, K], rows that sum to 1: one-hot, or annotators' votes.

  Returns:
    float32 [B], in nats.
  """
  return -jnp.sum(target.astype(jnp.float32) * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
