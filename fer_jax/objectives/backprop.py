"""Back-propagation of the cross-entropy through all trainable layers at once."""

import dataclasses

import jax
import jax.numpy as jnp

from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.objective import (
  Examples,
  Learned,
  Objective,
  count_correct,
  global_rows,
  sum_over_devices,
)


@dataclasses.dataclass(frozen=True)
class Backprop:
  """Cross-entropy by reverse-mode differentiation of the whole network.

  Attributes:
    label_smoothing: weight of the uniform distribution in the target.
  """

  label_smoothing: float = 0.0

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective; layers that are not trainable are run as in evaluation."""

    def objective(params: Tree, stats: Tree, batch: Examples, key: jax.Array) -> Learned:
      rows = global_rows(batch.image.shape[0], axis_name)

      def loss_of(trained: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
        outputs, new_stats = network.apply({**params, **trained}, stats, batch.image, key=key, trainable=trainable)
        losses = cross_entropy(outputs.logits, batch.target, self.label_smoothing)
        return jnp.sum(losses) / rows, (count_correct(outputs.logits, batch.target), new_stats)

      trained = {name: params[name] for name in params if name in trainable}
      (loss, (correct, new_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
      gradients, loss, correct = sum_over_devices((gradients, loss, correct), axis_name)
      return Learned(gradients, new_stats, {"loss": loss, "accuracy": correct / rows})

    return objective
