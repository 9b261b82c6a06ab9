r"""Focal losses: cross-entropies in which what is classified well already counts less.

Lin et al. 2017, arXiv:1708.02002. Everything is computed from logarithms of probabilities, those of `1 - p` too, so
that values and gradients stay finite where a probability rounds to 0 or 1.

Let B be the batch and K the number of classes.
"""

import jax
import jax.numpy as jnp


def softmax_focal(logits: jax.Array, target: jax.Array, gamma: float) -> jax.Array:
  r"""Computes the focal loss of each row, :math:`-\sum_k t_k (1 - p_k)^\gamma \log p_k` with p the softmax.

  The usual multi-class form: one term a row where the target is one-hot. gamma = 0 is the cross-entropy.

  Args:
    logits: [B, K], any float dtype; the arithmetic is float32.
    target: [B, K], rows that sum to 1: one-hot, or annotators' votes.
    gamma: the exponent, 0 or more; 2 in Lin et al.

  Returns:
    float32 [B], in nats.
  """
  log_p, log_rest = _log_softmax(logits)
  return -jnp.sum(target.astype(jnp.float32) * jnp.exp(gamma * log_rest) * log_p, axis=-1)


def one_vs_rest_focal(logits: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  r"""Computes each row's focal loss with every class against the rest, as eq. 4 of the CA-ResNet paper has it.

  .. math:: -\sum_k [\alpha (1 - p_k)^\gamma t_k \log p_k + (1 - \alpha) p_k^\gamma (1 - t_k) \log (1 - p_k)]

  The paper says that p is "the probability that sample n is of class i" and that the loss "brings its own softmax": so
  p is the softmax here, and the classes compete. `sigmoid_focal` is the same sum of a sigmoid of each logit.

  Args:
    logits: [B, K], any float dtype; the arithmetic is float32.
    target: [B, K], rows that sum to 1: one-hot, or annotators' votes.
    gamma: the exponent, 0 or more; the paper has 0 to 5.
    alpha: weight of the class that is right against those that are wrong, in [0, 1].

  Returns:
    float32 [B], in nats.
  """
  return _binary_focal(*_log_softmax(logits), target, gamma, alpha)


def sigmoid_focal(logits: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  """Computes the focal loss of each row as Lin et al. have it: K yes-or-no questions, p the sigmoid of each logit.

  The sum is that of `one_vs_rest_focal`. The classes do not compete here; the largest logit is still the prediction.

  Args:
    logits: [B, K], any float dtype; the arithmetic is float32.
    target: [B, K], numbers in [0, 1].
    gamma: the exponent, 0 or more; 2 in Lin et al.
    alpha: weight of "yes" against "no", in [0, 1]; 0.25 in Lin et al.

  Returns:
    float32 [B], in nats.
  """
  logits = logits.astype(jnp.float32)
  return _binary_focal(jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits), target, gamma, alpha)


def _binary_focal(log_p: jax.Array, log_rest: jax.Array, target: jax.Array, gamma: float, alpha: float) -> jax.Array:
  """Sums over the classes, given log p and log(1 - p), each float32 [B, K]."""
  target = target.astype(jnp.float32)
  yes = alpha * jnp.exp(gamma * log_rest) * target * log_p
  no = (1 - alpha) * jnp.exp(gamma * log_p) * (1 - target) * log_rest
  return -jnp.sum(yes + no, axis=-1)


def _log_softmax(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns log p and log(1 - p) of the softmax p, each float32 [B, K].

  1 - p is the sum of the other classes' probabilities, added up as such: a difference would leave nothing of it where p
  rounds to 1. That takes [B, K, K] numbers, which is little for the classes of faces.
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  others = ~jnp.eye(log_p.shape[-1], dtype=bool)
  return log_p, jax.nn.logsumexp(log_p[:, None, :], axis=-1, where=others[None])
