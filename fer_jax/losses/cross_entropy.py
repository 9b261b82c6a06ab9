"""Softmax cross-entropy against a distribution over the classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, target: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  r"""Computes the cross-entropy of each row, :math:`-\sum_k t_k \log \mathrm{softmax}(z)_k`.

  Let B be the batch and K the number of classes.

  Args:
    logits: [B, K], any float dtype; the arithmetic is float32.
    target: [B, K], rows that sum to 1: one-hot, or annotators' votes.
    label_smoothing: weight of the uniform distribution mixed into the target, in [0, 1].

  Returns:
    float32 [B], in nats.
  """
  target = target.astype(jnp.float32)
  if label_smoothing:
    target = (1 - label_smoothing) * target + label_smoothing / target.shape[-1]
  return -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
