"""The interface of every model: named layers, and a walk that applies them to an image."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

# Parameters or batch statistics, {layer name: variables of that layer}.
Tree = dict[str, Any]
# apply(name, *inputs) -> output: the function through which a walk calls its layers.
Apply = Callable[..., jax.Array]


# Key of a projection head among the parameters of the hidden layer that it is trained with.
PROJECTION_HEAD = "projection_head"


def inference_parameters(params: Tree) -> Tree:
  """Returns the parameters of all layers without the projection heads, which only a local loss uses."""
  return {
    name: {key: value for key, value in of_layer.items() if key != PROJECTION_HEAD} for name, of_layer in params.items()
  }


class Outputs(NamedTuple):
  """Outputs of a network for a batch.

  Attributes:
    logits: Logits, float32 [B, K].
    features: Inputs of the classifier, [B, D] in most networks.
    taps: Activations of the hidden layers, in walk order; empty unless requested.
  """

  logits: jax.Array
  features: jax.Array
  taps: tuple[jax.Array, ...] = ()


class Extractor(NamedTuple):
  """A network without its classifier; a model contains one or several.

  Attributes:
    layers: Linen modules by name.
    walk: Function (apply, image [B, H, W, C]) -> last feature map [B, h, w, D].
    blocks: Names of the layers in walk order, grouped into blocks.
  """

  layers: dict[str, nn.Module]
  walk: Callable[[Apply, jax.Array], jax.Array]
  blocks: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Network:
  """A network as a walk over named layers.

  The walk receives the function through which it calls its layers, so that an objective can wrap a layer.
  Back-propagation calls the layers directly; a local objective also computes each layer's own gradient there.

  Attributes:
    layers: Linen modules by name, each called as `layer(*inputs, train=...)`.
    walk: Function (apply, image [B, H, W, C]) -> (logits, features).
    blocks: Names of the hidden layers in walk order, grouped into blocks.
    classifier: Name of the layer whose output is the logits.
    extractors: Prefixes of the hidden layers' names, one for each extractor into which pretrained weights are loaded.
  """

  layers: Mapping[str, nn.Module]
  walk: Callable[[Apply, jax.Array], tuple[jax.Array, jax.Array]]
  blocks: tuple[tuple[str, ...], ...]
  classifier: str
  extractors: tuple[str, ...] = ("",)

  @property
  def hidden(self) -> tuple[str, ...]:
    """Names of the hidden layers, in walk order."""
    return tuple(name for block in self.blocks for name in block)

  def init(self, key: jax.Array, image: jax.Array) -> tuple[Tree, Tree]:
    """Returns initial parameters and batch statistics.

    Args:
      key: Random key. The variables of a layer depend only on the key and the name of the layer.
      image: Array of shape [B, H, W, C], of which only the shape and dtype matter.
    """
    params: Tree = {}
    stats: Tree = {}

    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      # By name, not by order: adding a layer does not change the others. Unlike hash(), crc32 is the same in every
      # process.
      layer_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
      output, variables = self.layers[name].init_with_output(layer_key, *inputs, train=False)
      params[name] = variables.get("params", {})
      stats[name] = variables.get("batch_stats", {})
      return output

    self.walk(apply, image)
    return params, stats

  def call(
    self,
    name: str,
    params: Any,
    stats: Any,
    inputs: tuple[jax.Array, ...],
    key: jax.Array | None,
    **sampling: Any,
  ) -> tuple[Any, Any]:
    """Calls one layer.

    Args:
      name: Name of the layer.
      params: Parameters of the layer.
      stats: Batch statistics of the layer.
      inputs: Inputs of the layer, from the walk.
      key: Random key of the training step; None in evaluation (running averages, no dropout).
      **sampling: `sample` and `sampled_inputs` of `ConvUnit`, for such a layer.

    Returns:
      The output, or the pair of outputs that the layer returns with `sample`, and the new batch statistics of the layer
      (unchanged in evaluation).
    """
    layer = self.layers[name]
    if sampling:
      layer = layer.clone(sample=sampling.pop("sample"))
    variables = {"params": params, "batch_stats": stats}
    if key is None:
      return layer.apply(variables, *inputs, train=False), stats
    # A separate dropout key for each layer.
    rngs = {"dropout": jax.random.fold_in(key, zlib.crc32(name.encode()))}
    output, updates = layer.apply(variables, *inputs, train=True, mutable=["batch_stats"], rngs=rngs, **sampling)
    return output, updates.get("batch_stats", stats)

  def apply(
    self,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    *,
    key: jax.Array | None = None,
    trainable: frozenset[str] | None = None,
    taps: bool = False,
  ) -> tuple[Outputs, Tree]:
    """Applies all layers to a batch of images.

    Args:
      params: Parameters of all layers.
      stats: Batch statistics of all layers.
      image: Standardised images, float [B, H, W, C].
      key: Random key of the training step; None in evaluation.
      trainable: Names of the layers that run in training mode if there is a key (default all); the others run as in
        evaluation.
      taps: Whether to also return the outputs of the hidden layers.

    Returns:
      The outputs, and the new batch statistics.
    """
    # A copy: entries that belong to no layer, such as the centres of a centre loss, pass through unchanged.
    new_stats = dict(stats)
    hidden = set(self.hidden)
    tapped = []

    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      layer_key = key if trainable is None or name in trainable else None
      output, new_stats[name] = self.call(name, params[name], stats[name], inputs, layer_key)
      if taps and name in hidden:
        tapped.append(output)
      return output

    logits, features = self.walk(apply, image)
    return Outputs(logits, features, tuple(tapped)), new_stats
