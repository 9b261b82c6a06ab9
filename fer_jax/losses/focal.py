"""Focal losses: cross-entropies that give well-classified examples less weight.

Lin et al. 2017, arXiv:1708.02002. All functions work with log p and log(1 - p), so that values and gradients stay
finite where a probability rounds to 0 or 1.

B is the batch size and K the number of classes.
"""

import jax
import jax.numpy as jnp


def softmax_focal(logits: jax.Array, target: jax.Array, gamma: float) -> jax.Array:
  r"""Computes the focal loss of each row, :math:`-\sum_k t_k (1 - p_k)^\gamma \log p_k` with p the softmax.

  This is the usual multi-class form: for one-hot targets, each row has a single non-zero term. gamma = 0 gives the
  cross-entropy.

  Args:
    logits: Logits of shape [B, K], any float dtype; computed in float32.
    target: Class distributions of shape [B, K]: one-hot, or annotators' votes; rows sum to 1.
    gamma: Exponent of the focusing factor, 0 or more; 2 in Lin et al.

  Returns:
    float32 [B], in nats.
  """
  # (1 - p)^gamma = exp(gamma log(1 - p)) is finite even where 1 - p rounds to 0.
  log_p, log_rest = _log_softmax(logits)
  return -jnp.sum(target.astype(jnp.float32) * jnp.exp(gamma * log_rest) * log_p, axis=-1)


def one_vs_rest_focal(logits: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  r"""Computes the one-versus-rest focal loss of each row, summed over the classes (eq. 4 of the CA-ResNet paper).

  :math:`-\sum_k [\alpha (1 - p_k)^\gamma t_k \log p_k + (1 - \alpha) p_k^\gamma (1 - t_k) \log (1 - p_k)]`

  The paper defines p as "the probability that sample n is of class i" and states that the loss "brings its own
  softmax". Therefore p is the softmax here, and the classes compete. `sigmoid_focal` is the same sum with p the sigmoid
  of each logit.

  Args:
    logits: Logits of shape [B, K], any float dtype; computed in float32.
    target: Class distributions of shape [B, K]: one-hot, or annotators' votes; rows sum to 1.
    gamma: Exponent of the focusing factor, 0 or more; 0 to 5 in the paper.
    alpha: Weight of the positive term, in [0, 1]; the negative terms have the weight 1 - alpha.

  Returns:
    float32 [B], in nats.
  """
  return _binary_focal(*_log_softmax(logits), target, gamma, alpha)


def sigmoid_focal(logits: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  """Computes the focal loss of each row as in Lin et al.: K binary decisions, with p the sigmoid of each logit.

  The sum is that of `one_vs_rest_focal`. The classes do not compete; the prediction is still the largest logit.

  Args:
    logits: Logits of shape [B, K], any float dtype; computed in float32.
    target: Targets of shape [B, K], in [0, 1].
    gamma: Exponent of the focusing factor, 0 or more; 2 in Lin et al.
    alpha: Weight of the positive term, in [0, 1]; the negative terms have the weight 1 - alpha. 0.25 in Lin et al.

  Returns:
    float32 [B], in nats.
  """
  logits = logits.astype(jnp.float32)
  return _binary_focal(jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits), target, gamma, alpha)


def _binary_focal(log_p: jax.Array, log_rest: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  """Sums the binary focal losses over the classes, given log p and log(1 - p), each float32 [B, K]."""
  target = target.astype(jnp.float32)
  # (1 - p)^gamma and p^gamma are computed as exponentials of logarithms to keep their gradients finite.
  yes = alpha * jnp.exp(gamma * log_rest) * target * log_p
  no = (1 - alpha) * jnp.exp(gamma * log_p) * (1 - target) * log_rest
  return -jnp.sum(yes + no, axis=-1)


def _log_softmax(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns log p and log(1 - p) of the softmax p, each float32 [B, K].

  1 - p is computed as the sum of the other classes' probabilities: the difference would be 0 where p rounds to 1. This
  takes an intermediate array of shape [B, K, K], which is small for the number of facial expression classes.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  # [K, K] mask that excludes the class itself
  others = ~jnp.eye(log_p.shape[-1], dtype=bool)
  # [B, 1, K], masked per class and summed over the last axis -> [B, K]
  return log_p, jax.nn.logsumexp(log_p[:, None, :], axis=-1, where=others[None])
