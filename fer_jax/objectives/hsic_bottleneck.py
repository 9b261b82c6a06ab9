"""The HSIC bottleneck: every hidden layer learns from its own dependence on input and label, without back-propagation.

Layer i minimises HSIC(Z_i, X) - beta HSIC(Z_i, Y) over its own parameters (Ma et al. 2019, arXiv:1908.01580;
Han et al. 2023, doi:10.12677/sea.2023.122019). Its gradient is taken where it stands in the forward walk: the walk
calls a layer, the layer's inner products go to its group, and when a group is complete all its losses and
their cotangents are computed by one `vmap` over the stack (L, B, B). What follows waits for a group's gradients, so
that its activations can be freed. No gradient with respect to a layer's input is computed, but inside a block where
`unit` asks for it.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.layers.ordering import depend_on
from fer_jax.losses import hsic
from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.layer_loss import LayerLoss
from fer_jax.objectives.objective import (
  Examples,
  Learned,
  Objective,
  count_correct,
  global_rows,
  smoothed,
  sum_over_devices,
)

GROUPS = ("network", "block", "layer")
UNITS = ("layer", "block")


@dataclasses.dataclass(frozen=True)
class HsicBottleneck(LayerLoss):
  """The objective's hyper-parameters: those of every layer's loss, and how the layers are walked.

  Attributes:
    group: how many layers one vmap settles: "network", "block" or "layer". All give the same gradients.
    unit: how far a layer's loss reaches: "layer", its own parameters alone, or "block", those of the earlier layers of
      its block too, as far as they feed it directly (units of several layers: Belilovsky et al. 2019,
      arXiv:1812.11446). That costs gradients with respect to inputs inside the block; `group` must not be "layer".
    label_smoothing: in the classifier's cross-entropy, where the classifier is trained beside the hidden layers.
  """

  group: str = "layer"
  unit: str = "layer"
  label_smoothing: float = 0.0

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice("objective.group", self.group, GROUPS)
    check_choice("objective.unit", self.unit, UNITS)
    if self.unit == "block" and self.group == "layer":
      raise ValueError("objective.unit='block': expected objective.group='block' or 'network', not 'layer'")

  def statistics(self, features: int, classes: int) -> Tree:
    """Returns nothing: a batch is all that the objective knows of."""
    del features, classes
    return {}

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective for the hidden layers in `trainable`, and for the classifier if it is among them.

    The classifier then learns by its own cross-entropy, which reaches nothing but the classifier.
    """
    closes_group = _group_ends(network, trainable, self.group)
    betas = _layer_values(network, self.beta, self.layer_beta, "objective.layer_beta")

    def objective(params: Tree, stats: Tree, batch: Examples, key: jax.Array) -> Learned:
      return _LocalWalk(self, network, trainable, axis_name, closes_group, betas, params, stats, batch, key).learn()

    return objective


def _group_ends(network: Network, trainable: frozenset[str], group: str) -> frozenset[str]:
  """Returns the layers after which a group is complete.

  Args:
    network: whose hidden layers learn.
    trainable: those that do.
    group: one of GROUPS.
  """
  blocks = [[name for name in block if name in trainable] for block in network.blocks]
  blocks = [block for block in blocks if block]
  if group == "layer":
    return frozenset(name for block in blocks for name in block)
  if group == "block":
    return frozenset(_last_walked(block, network) for block in blocks)
  return frozenset({_last_walked([name for block in blocks for name in block], network)} if blocks else ())


def _last_walked(names: list[str], network: Network) -> str:
  return [name for name in network.layers if name in names][-1]


def _layer_values(network: Network, default: float, by_pattern: Mapping[str, float], key: str) -> dict[str, float]:
  """Returns a number for each hidden layer; raises ValueError, naming the key, for a pattern that matches none."""
  values = dict.fromkeys(network.hidden, default)
  for pattern, value in by_pattern.items():
    found = fnmatch.filter(network.hidden, pattern)
    if not found:
      raise ValueError(f"{key}: {pattern!r} matches no hidden layer; they are {', '.join(network.hidden)}")
    values.update(dict.fromkeys(found, value))
  return values


class _Waiting(NamedTuple):
  """A layer between its forward computation and the moment when its group is complete."""

  name: str
  inputs: tuple[jax.Array, ...]
  output: jax.Array
  products: jax.Array
  dimensions: int
  pull_back: Callable[[tuple[jax.Array, jax.Array]], tuple[Any, tuple[jax.Array, ...]]]


@dataclasses.dataclass
class _LocalWalk:
  """One batch's walk: what waits for its group, what has been learned.

  It lives for one trace of the step. `learn`, called once, is a pure function of the fields.
  """

  loss: HsicBottleneck
  network: Network
  trainable: frozenset[str]
  axis_name: str | None
  closes_group: frozenset[str]
  betas: Mapping[str, float]
  params: Tree
  stats: Tree
  batch: Examples
  key: jax.Array

  def __post_init__(self) -> None:
    self.new_stats = dict(self.stats)
    self.gradients: Tree = {}
    self.metrics: dict[str, jax.Array] = {}
    self.total = jnp.zeros((), jnp.float32)
    self.waiting: list[_Waiting] = []
    self.block_of = {name: i for i, block in enumerate(self.network.blocks) for name in block}
    # Gradients of the newest group, and of the one before it, for which a later layer waits.
    self.newest: list[jax.Array] = []
    self.awaited: list[jax.Array] = []

  def learn(self) -> Learned:
    """Walks the batch through the network; returns what every trainable layer learned on the way."""
    image = self.loss.input_rows(self.batch.image)
    input_gram = self.loss.gram(hsic.inner_products(image, self.axis_name), image.shape[-1])
    target = self.batch.target
    if self.axis_name is not None:
      target = jax.lax.all_gather(target, self.axis_name, tiled=True)
    self.input_factor = self.loss.factor(input_gram)
    self.label_factor = self.loss.factor(self.loss.label_gram(target))
    self.network.walk(self.apply, self.batch.image)
    gradients = sum_over_devices(self.gradients, self.axis_name)
    return Learned(gradients, self.new_stats, {"loss": self.total, **self.metrics})

  def apply(self, name: str, *inputs: jax.Array) -> jax.Array:
    if name not in self.trainable:
      return self.network.call(name, self.params[name], self.stats[name], inputs, None)[0]
    if name == self.network.classifier:
      return self.classify(name, inputs)
    return self.learn_locally(name, inputs)

  def learn_locally(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    def layer(params: Any, inputs: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, int]]:
      output, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      rows = self.loss.rows(output)
      return (hsic.inner_products(rows, self.axis_name), output), (stats, rows.shape[-1])

    params = jax.tree.map(lambda p: depend_on(p, *self.awaited) if self.awaited else p, self.params[name])
    (products, output), pull_back, (self.new_stats[name], d) = jax.vjp(layer, params, inputs, has_aux=True)
    self.waiting.append(_Waiting(name, inputs, output, products, d, pull_back))
    if name in self.closes_group:
      self.settle()
    return output

  def settle(self) -> None:
    """Takes the gradients of every waiting layer, and lets the walk go on only once they are taken."""
    stack = jnp.stack([layer.products for layer in self.waiting])
    dimensions = jnp.asarray([layer.dimensions for layer in self.waiting], jnp.float32)
    betas = jnp.asarray([self.betas[layer.name] for layer in self.waiting], jnp.float32)
    cotangents, (compressed, with_label) = self.loss.losses(
      stack, dimensions, betas, self.input_factor, self.label_factor
    )
    gradients = self.pull_back(cotangents)
    # Later layers' parameters depend on these gradients: else all forward passes go first and keep every activation
    # alive. One group may run ahead: a device with several cores has work for them then, and the memory is hardly more.
    # The largest gradient of a layer, its kernel's, is enough: computing it needs all that the layer keeps.
    leaves = [found for of_layer in gradients.values() if (found := jax.tree.leaves(of_layer))]
    self.awaited, self.newest = self.newest, [max(found, key=jnp.size) for found in leaves]
    self.gradients.update(gradients)
    for i, layer in enumerate(self.waiting):
      self.metrics[f"hsic_{self.loss.compress}/{layer.name}"] = compressed[i]
      self.metrics[f"hsic_label/{layer.name}"] = with_label[i]
    self.total += jnp.sum(compressed - betas * with_label)
    self.waiting = []

  def pull_back(self, cotangents: jax.Array) -> Tree:
    """Returns the gradients of the waiting layers, given the cotangents [L, B, B] of their inner products.

    Inside a unit the cotangents of outputs are handed back from layer to layer, the last walked first. Elsewhere an
    output's cotangent is zero and that of the inputs is not looked at, so that neither is ever computed.
    """
    gradients: Tree = {}
    passed_back: dict[int, jax.Array] = {}  # by the output itself, which a later layer of the unit was given
    maker = {id(layer.output): self.block_of[layer.name] for layer in self.waiting}
    for i, layer in reversed(list(enumerate(self.waiting))):
      own = passed_back.pop(id(layer.output), None)
      cotangent = jnp.zeros_like(layer.output) if own is None else own
      gradients[layer.name], of_inputs = layer.pull_back((cotangents[i], cotangent))
      for given, passed in zip(layer.inputs, of_inputs, strict=True):
        if self.loss.unit == "block" and maker.get(id(given)) == self.block_of[layer.name]:
          before = passed_back.get(id(given))
          passed_back[id(given)] = passed if before is None else before + passed
    return gradients

  def classify(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """Trains the classifier on features that it cannot change."""
    rows = global_rows(self.batch.image.shape[0], self.axis_name)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      logits, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      losses = cross_entropy(logits, smoothed(self.batch.target, self.loss.label_smoothing))
      return jnp.sum(losses) / rows, (logits, stats)

    (loss, (logits, self.new_stats[name])), self.gradients[name] = jax.value_and_grad(loss_of, has_aux=True)(
      self.params[name]
    )
    correct = count_correct(logits, self.batch.target)
    loss, correct = sum_over_devices((loss, correct), self.axis_name)
    self.metrics |= {"cross_entropy": loss, "accuracy": correct / rows}
    return logits
