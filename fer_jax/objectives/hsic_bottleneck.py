"""The HSIC bottleneck: trains every hidden layer by its dependence on input and labels, without back-propagation.

Layer i minimises HSIC(Z_i, X) - beta HSIC(Z_i, Y) over its own parameters (Ma et al. 2019, arXiv:1908.01580;
Han et al. 2023, doi:10.12677/sea.2023.122019). The gradients are computed during the forward walk. When the walk calls
a layer, the inner products of the layer's activations are added to its group. When a group is complete, one program on
the stack (L, B, B) computes the losses of all its layers and their cotangents. Later layers depend on a group's
gradients, so that its activations can be freed. No gradient with respect to a layer's input is computed, except
inside a block if `unit` is "block".
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.kernels.ordering import depend_on
from fer_jax.losses import cross_entropy, hsic
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.layer_loss import LayerLoss
from fer_jax.objectives.objective import (
  Examples,
  Objective,
  ObjectiveOutput,
  count_correct,
  global_rows,
  smoothed,
  sum_over_devices,
)

GROUPS = ("network", "block", "triple", "layer")
UNITS = ("layer", "block")
_GROUP_SIZES = {"layer": 1, "triple": 3}  # layers of a block


@dataclasses.dataclass(frozen=True)
class HsicBottleneck(LayerLoss):
  """Hyper-parameters of the objective: those of the layers' losses, and the grouping of the layers.

  Attributes:
    group: Set of layers whose losses are computed together: "network", "block", "triple" (three consecutive layers of
      a block) or "layer". All give the same gradients. Larger groups take fewer kernels and more memory.
    unit: Set of parameters that a layer's loss trains: "layer" for its own, or "block" to include those of earlier
      layers of its block that feed it directly (units of several layers: Belilovsky et al. 2019, arXiv:1812.11446).
      "block" costs gradients with respect to inputs inside the block and requires a `group` of whole blocks.
    label_smoothing: Weight of the uniform distribution in the target of the classifier's cross-entropy, if the
      classifier is trained together with the hidden layers.
  """

  group: str = "layer"
  unit: str = "layer"
  label_smoothing: float = 0.0

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice("objective.group", self.group, GROUPS)
    check_choice("objective.unit", self.unit, UNITS)
    if self.unit == "block" and self.group not in ("block", "network"):
      raise ValueError(f"objective.unit='block': expected objective.group='block' or 'network', not {self.group!r}")

  def statistics(self, features: int, classes: int) -> Tree:
    """Returns {}: the objective keeps no state between steps."""
    del features, classes
    return {}

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective; see `ObjectiveSettings.build` for the arguments.

    If the classifier is trainable, its cross-entropy trains only the classifier itself, not the hidden layers.

    Raises:
      ValueError: A pattern of `layer_beta` matches no hidden layer.
    """
    closes_group = _group_ends(network, trainable, self.group)
    betas = _layer_values(network, self.beta, self.layer_beta, "objective.layer_beta")

    def objective(params: Tree, stats: Tree, batch: Examples, key: jax.Array) -> ObjectiveOutput:
      image = self.input_rows(batch.image)
      # The Gram matrices are of the global batch, [B, B], on every device; the input's is shared by all layers.
      input_gram = self.gram(hsic.inner_products(image, axis_name), image.shape[-1])
      # [b, K] -> [B, K]
      target = batch.target if axis_name is None else jax.lax.all_gather(batch.target, axis_name, tiled=True)
      walk = _LocalWalk(
        loss=self,
        network=network,
        trainable=trainable,
        axis_name=axis_name,
        closes_group=closes_group,
        betas=betas,
        params=params,
        stats=stats,
        batch=batch,
        key=key,
        input_factor=self.factor(input_gram),
        label_factor=self.factor(self.label_gram(target)),
        new_stats=dict(stats),
      )
      network.walk(walk.apply, batch.image)
      gradients = sum_over_devices(walk.gradients, axis_name)
      return ObjectiveOutput(gradients, walk.new_stats, {"loss": walk.total, **walk.metrics})

    return objective


def _group_ends(network: Network, trainable: frozenset[str], group: str) -> frozenset[str]:
  """Returns the names of the layers after which a group is complete.

  Args:
    network: Network to train.
    trainable: Names of the trainable layers.
    group: One of GROUPS.
  """
  blocks = [[name for name in block if name in trainable] for block in network.blocks]
  blocks = [block for block in blocks if block]
  if group in _GROUP_SIZES:
    parts = [block[i : i + _GROUP_SIZES[group]] for block in blocks for i in range(0, len(block), _GROUP_SIZES[group])]
    return frozenset(_last_walked(part, network) for part in parts)
  if group == "block":
    return frozenset(_last_walked(block, network) for block in blocks)
  return frozenset({_last_walked([name for block in blocks for name in block], network)} if blocks else ())


def _last_walked(names: list[str], network: Network) -> str:
  # `network.layers` is in walk order.
  return [name for name in network.layers if name in names][-1]


def _layer_values(network: Network, default: float, by_pattern: Mapping[str, float], key: str) -> dict[str, float]:
  """Returns a value for each hidden layer; raises ValueError with the config key if a pattern matches no layer."""
  values = dict.fromkeys(network.hidden, default)
  for pattern, value in by_pattern.items():
    found = fnmatch.filter(network.hidden, pattern)
    if not found:
      raise ValueError(f"{key}: {pattern!r} matches no hidden layer; they are {', '.join(network.hidden)}")
    values.update(dict.fromkeys(found, value))
  return values


class _Waiting(NamedTuple):
  """A layer whose forward pass is done and whose group is not complete yet.

  Attributes:
    name: Name of the layer.
    inputs: Inputs of the layer.
    output: Output of the layer, this device's rows.
    products: Inner products of the rows of the global batch, float32 [B, B].
    dimensions: Length d of a row.
    pull_back_products: Function cotangent of the products, plus its transpose -> cotangent of the rows.
    pull_back: Function (cotangents of rows and output) -> (gradients of the parameters, cotangents of the inputs).
  """

  name: str
  inputs: tuple[jax.Array, ...]
  output: jax.Array
  products: jax.Array
  dimensions: int
  pull_back_products: Callable[[jax.Array], jax.Array]
  pull_back: Callable[[tuple[jax.Array, jax.Array]], tuple[Any, tuple[jax.Array, ...]]]


@dataclasses.dataclass
class _LocalWalk:
  """The walk of one batch through the network, in one trace of the step.

  Attributes:
    loss: Hyper-parameters of the objective.
    network: Network to train.
    trainable: Names of the trainable layers.
    axis_name: Mapped axis of devices; None on one device.
    closes_group: Names of the layers after which a group is complete.
    betas: Weight of the label term of each hidden layer.
    params: Parameters of all layers.
    stats: Batch statistics of all layers.
    batch: Rows of this device.
    key: Random key of the step.
    input_factor: Factor of the input's Gram matrix, float32 [B, B].
    label_factor: Factor of the labels' Gram matrix, float32 [B, B].
    new_stats: Batch statistics after the step.
    gradients: Gradients of the layers of all complete groups, before the sum over devices.
    metrics: Metrics of the layers so far.
    total: Sum of the losses so far.
    waiting: Layers of the incomplete group.
    newest: Gradients of the latest complete group.
    awaited: Gradients of the group before it, on which the parameters of the next layers depend.
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
  input_factor: jax.Array
  label_factor: jax.Array
  new_stats: Tree
  gradients: Tree = dataclasses.field(default_factory=dict)
  metrics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
  total: jax.Array = dataclasses.field(default_factory=lambda: jnp.zeros((), jnp.float32))
  waiting: list[_Waiting] = dataclasses.field(default_factory=list)
  newest: list[jax.Array] = dataclasses.field(default_factory=list)
  awaited: list[jax.Array] = dataclasses.field(default_factory=list)

  def apply(self, name: str, *inputs: jax.Array) -> jax.Array:
    """Applies one layer, frozen, as the classifier or with its local loss; the walk calls this function."""
    if name not in self.trainable:
      return self.network.call(name, self.params[name], self.stats[name], inputs, None)[0]
    if name == self.network.classifier:
      return self.classify(name, inputs)
    return self.learn_locally(name, inputs)

  def learn_locally(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """Applies a hidden layer and adds it to its group; computes the group's gradients if it is complete."""

    def layer(params: Any, inputs: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, jax.Array], Any]:
      output, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      return (self.loss.rows(output), output), stats

    # The parameters are unchanged, but XLA has to compute the earlier gradients first; see `settle`.
    params = jax.lax.platform_dependent(
      self.params[name],
      cpu=lambda params: depend_on(params, *self.awaited),
      default=lambda params: depend_on(params, *self.newest),
    )
    (rows, output), pull_back, self.new_stats[name] = jax.vjp(layer, params, inputs, has_aux=True)
    products, pull_back_products = hsic.products_of_rows(rows, self.axis_name)
    self.waiting.append(_Waiting(name, inputs, output, products, rows.shape[-1], pull_back_products, pull_back))
    if name in self.closes_group:
      self.settle()
    return output

  def settle(self) -> None:
    """Computes the gradients of all layers of the group; later layers depend on them."""
    # [L, B, B], for the L layers of the group
    stack = jnp.stack([layer.products for layer in self.waiting])
    dimensions = jnp.asarray([layer.dimensions for layer in self.waiting], jnp.float32)
    betas = jnp.asarray([self.betas[layer.name] for layer in self.waiting], jnp.float32)
    cotangents, (compressed, with_label) = self.loss.losses(
      stack, dimensions, betas, self.input_factor, self.label_factor
    )
    gradients = self.pull_back(cotangents)
    # The parameters of later layers depend on these gradients. Otherwise XLA runs all forward passes first and keeps
    # every activation alive. On CPUs, the dependence skips one group, so that the next group may run ahead: this keeps
    # several cores busy and needs hardly more memory. The largest gradient of a layer, its kernel's, is enough:
    # computing it uses all stored activations of the layer.
    leaves = [found for of_layer in gradients.values() if (found := jax.tree.leaves(of_layer))]
    self.awaited, self.newest = self.newest, [max(found, key=jnp.size) for found in leaves]
    self.gradients.update(gradients)
    for i, layer in enumerate(self.waiting):
      self.metrics[f"hsic_{self.loss.compress}/{layer.name}"] = compressed[i]
      self.metrics[f"hsic_label/{layer.name}"] = with_label[i]
    self.total += jnp.sum(compressed - betas * with_label)
    self.waiting = []

  def pull_back(self, cotangents: jax.Array) -> Tree:
    """Returns the gradients of the layers of the group, {layer name: tree}.

    If `unit` is "block", the cotangents of outputs are propagated from layer to layer in reverse walk order. Otherwise
    the cotangent of an output is zero and those of the inputs are unused, so that XLA computes neither.

    Args:
      cotangents: Derivatives of the losses with respect to the inner products, float32 [L, B, B].
    """
    gradients: Tree = {}
    # A cotangent plus its transpose: the losses are functions of symmetric matrices, so the two are equal.
    # Converted in one array for all layers, which have the same dtype.
    symmetric = (2 * cotangents).astype(hsic.cotangent_dtype(self.waiting[0].output.dtype))
    # Sum of the cotangents of each layer's output, from the later layers of its block that read it.
    of_output: list[jax.Array | None] = [None] * len(self.waiting)
    for i, layer in reversed(list(enumerate(self.waiting))):
      own = of_output[i]
      own = jnp.zeros_like(layer.output) if own is None else own
      gradients[layer.name], of_inputs = layer.pull_back((layer.pull_back_products(symmetric[i]), own))
      if self.loss.unit == "block":
        for x, cotangent in zip(layer.inputs, of_inputs, strict=True):
          source = self._producer(x, layer.name)
          if source is not None:
            before = of_output[source]
            of_output[source] = cotangent if before is None else before + cotangent
    return gradients

  def _producer(self, x: jax.Array, reader: str) -> int | None:
    """Returns the position in `waiting` of the layer whose output x is, if it is in the block of the reader."""
    for i, layer in enumerate(self.waiting):
      if layer.output is x:
        return i if self._block_of(layer.name) == self._block_of(reader) else None
    return None

  def _block_of(self, name: str) -> int:
    return next(i for i, block in enumerate(self.network.blocks) if name in block)

  def classify(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """Applies the classifier and computes the gradient of its cross-entropy, only for its own parameters."""
    rows = global_rows(self.batch.image.shape[0], self.axis_name)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      logits, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      target = smoothed(self.batch.target, self.loss.label_smoothing)
      losses = cross_entropy(logits, target)
      return jnp.sum(losses) / rows, (logits, stats)

    (loss, (logits, self.new_stats[name])), self.gradients[name] = jax.value_and_grad(loss_of, has_aux=True)(
      self.params[name]
    )
    correct = count_correct(logits, self.batch.target)
    loss, correct = sum_over_devices((loss, correct), self.axis_name)
    self.metrics |= {"cross_entropy": loss, "accuracy": correct / rows}
    return logits
