"""Back-propagation that keeps only what leaves a block, and computes the rest of the block again.

Chen et al. 2016, arXiv:1604.06174, with the blocks of a network as segments.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.kernels.ordering import depend_on
from fer_jax.models.network import Network, Outputs, Tree


def checkpointed_gradients(
  network: Network,
  params: Tree,
  stats: Tree,
  image: jax.Array,
  key: jax.Array,
  trainable: frozenset[str],
  loss_of: Callable[[Outputs], tuple[jax.Array, Any]],
) -> tuple[Any, Tree, Tree]:
  """Computes a loss and its gradients block by block, from the classifier to the first block.

  Args:
    network: Network to train.
    params: Parameters of all layers.
    stats: Batch statistics of all layers.
    image: Images, float [B, H, W, C].
    key: Random key of the training step.
    trainable: Names of the layers to differentiate; the others run as in evaluation.
    loss_of: Function outputs -> (loss, other results).

  Returns:
    The other results, the gradients of the trainable layers, and the new batch statistics.
  """
  outputs: dict[str, jax.Array] = {}
  new_stats = dict(stats)

  def call(name: str, layer_params: Any, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
    return network.call(name, layer_params, stats[name], inputs, key if name in trainable else None)

  def forward(name: str, *inputs: jax.Array) -> jax.Array:
    outputs[name], new_stats[name] = call(name, params[name], inputs)
    return outputs[name]

  network.walk(forward, image)

  def outputs_of(segment: tuple[str, ...]) -> Callable[[Tree, Tree], tuple[Any, Any]]:
    """Returns a function (parameters, earlier outputs) -> (outputs of a segment, None), or (loss, other results)."""

    def run(segment_params: Tree, earlier: Tree) -> tuple[Any, Any]:
      found: dict[str, jax.Array] = {}

      def apply(name: str, *inputs: jax.Array) -> jax.Array:
        if name in segment:
          found[name], _ = call(name, segment_params[name], inputs)
          return found[name]
        # Later layers do not matter for the segment, so any array of the right shape does.
        return earlier[name] if name in earlier else jnp.zeros_like(outputs[name])

      logits, features = network.walk(apply, image)
      return loss_of(Outputs(logits, features)) if network.classifier in segment else (found, None)

    return run

  result: Any = None
  cotangent: Any
  gradients: Tree = {}
  # Sum of the cotangents of each output, from the segments after its own.
  cotangents: dict[str, jax.Array] = {}
  segments = [*network.blocks, (network.classifier,)]
  for i, segment in reversed(list(enumerate(segments))):
    known = {name: outputs[name] for block in segments[:i] for name in block}
    # The dependence keeps XLA from computing the segment before these cotangents are known, and from keeping the
    # results of the forward pass for it.
    awaited = [cotangents[name] for name in segment if name in cotangents]
    segment_params = depend_on({name: params[name] for name in segment}, *awaited)
    value, pull_back, other = jax.vjp(outputs_of(segment), segment_params, known, has_aux=True)
    if network.classifier in segment:
      result, cotangent = other, jnp.ones_like(value)
    else:
      cotangent = {name: cotangents.get(name, jnp.zeros_like(outputs[name])) for name in segment}
    of_params, of_earlier = pull_back(cotangent)
    gradients |= {name: of_params[name] for name in segment if name in trainable}
    for name, more in of_earlier.items():
      cotangents[name] = cotangents[name] + more if name in cotangents else more
  return result, gradients, new_stats
