"""What every model is to the rest of the code: named layers, and the walk an image takes through them."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

# Parameters or statistics, {layer name: that layer's variables}.
Tree = dict[str, Any]
# apply(name, *inputs) -> output: what a walk is given to call its layers with.
Apply = Callable[..., jax.Array]


class Outputs(NamedTuple):
  """What a network makes of a batch.

  Attributes:
    logits: float32 [B, K].
    features: [B, D], what the classifier reads.
    taps: the hidden layers' activations, in walk order; empty unless asked for.
  """

  logits: jax.Array
  features: jax.Array
  taps: tuple[jax.Array, ...] = ()


class Extractor(NamedTuple):
  """A network without its classifier, to stand alone or beside another one.

  Attributes:
    layers: linen modules by name.
    walk: (apply, image [B, H, W, C]) -> the last maps [B, h, w, D].
    blocks: the layers' names, in walk order, in the groups that belong together.
  """

  layers: dict[str, nn.Module]
  walk: Callable[[Apply, jax.Array], jax.Array]
  blocks: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Network:
  """A network as a walk over named layers.

  The walk calls each layer through a function it is given, so that an objective can put something
  around a layer: back-propagation puts nothing, a local objective takes the layer's own gradient there.

  Attributes:
    layers: linen modules by name, each called as `layer(*inputs, train=...)`.
    walk: (apply, image [B, H, W, C]) -> (logits, features).
    blocks: names of the hidden layers, in walk order, in the groups that belong together.
    classifier: name of the layer whose output is the logits.
    extractors: what the hidden layers' names begin with, for each copy of a network that pretrained weights are for.
  """

  layers: Mapping[str, nn.Module]
  walk: Callable[[Apply, jax.Array], tuple[jax.Array, jax.Array]]
  blocks: tuple[tuple[str, ...], ...]
  classifier: str
  extractors: tuple[str, ...] = ("",)

  @property
  def hidden(self) -> tuple[str, ...]:
    """The names of the hidden layers, in walk order."""
    return tuple(name for block in self.blocks for name in block)

  def init(self, key: jax.Array, image: jax.Array) -> tuple[Tree, Tree]:
    """Returns fresh parameters and batch statistics; a layer's depend on the key and its name alone."""
    params: Tree = {}
    stats: Tree = {}

    def apply(name: str, *inputs: jax.Array) -> jax.Array:
      layer_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
      output, variables = self.layers[name].init_with_output(layer_key, *inputs, train=False)
      params[name] = variables.get("params", {})
      stats[name] = variables.get("batch_stats", {})
      return output

    self.walk(apply, image)
    return params, stats

  def call(
    self, name: str, params: Any, stats: Any, inputs: tuple[jax.Array, ...], key: jax.Array | None
  ) -> tuple[Any, Any]:
    """Calls one layer.

    Args:
      name: which.
      params: that layer's parameters.
      stats: that layer's batch statistics.
      inputs: what the walk hands it.
      key: random key of the step, for training; None to evaluate (running averages, no dropout).

    Returns:
      the output, and the layer's new statistics (the old ones when evaluating).
    """
    variables = {"params": params, "batch_stats": stats}
    if key is None:
      return self.layers[name].apply(variables, *inputs, train=False), stats
    rngs = {"dropout": jax.random.fold_in(key, zlib.crc32(name.encode()))}
    output, updates = self.layers[name].apply(variables, *inputs, train=True, mutable=["batch_stats"], rngs=rngs)
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
    """Walks the image through every layer.

    Args:
      params: of all layers.
      stats: batch statistics of all layers.
      image: [B, H, W, C], as the pipeline standardised it.
      key: random key of a training step; None to evaluate.
      trainable: with a key, the layers in training mode (default all); the others stay as in evaluation.
      taps: also return the hidden layers' outputs.

    Returns:
      the outputs, and the new batch statistics.
    """
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
