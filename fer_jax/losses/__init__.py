"""Losses as pure functions of arrays. They import jax, numpy and optax, and nothing else from this package.

`LOSSES` contains the losses of the logits that `config.phases.NAME.objective.loss` can name. To add one, write a
function (logits [B, K], target [B, K], hyper-parameters) -> float32 [B] and a line in `LOSSES`. Its hyper-parameters
are the fields of the same names of `objectives.backprop.Backprop`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fer_jax.losses.focal import one_vs_rest_focal, sigmoid_focal, softmax_focal


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
  r"""Computes the cross-entropy of each row, :math:`-\sum_k t_k \log \mathrm{softmax}(z)_k`.

  Args:
    logits: Logits of shape [B, K], any float dtype; computed in float32.
    target: Class distributions of shape [B, K]: one-hot, or annotators' votes; rows sum to 1.

  Returns:
    float32 [B], in nats.
  """
  return optax.softmax_cross_entropy(logits.astype(jnp.float32), target)


LOSSES: dict[str, Callable[..., jax.Array]] = {
  "cross_entropy": cross_entropy,
  "focal": softmax_focal,
  "focal_one_vs_rest": one_vs_rest_focal,
  "focal_sigmoid": sigmoid_focal,
}
