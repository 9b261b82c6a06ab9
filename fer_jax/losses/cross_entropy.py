"""Softmax cross-entropy against a target distribution over the classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
  r"""Computes the cross-entropy of each row, :math:`-\sum_k t_k \log \mathrm{softmax}(z)_k`.

  B is the batch size and K the number of classes.

  Args:
    logits: Logits of shape [B, K], any float dtype; computed in float32.
    target: Class distributions of shape [B, K]: one-hot, or annotators' votes; rows sum to 1.

  Returns:
    float32 [B], in nats.
  """
  return -jnp.sum(target.astype(jnp.float32) * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
