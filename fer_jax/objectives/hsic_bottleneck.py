"""The HSIC bottleneck: trains every hidden layer by its dependence on input and labels, without back-propagation.

Layer i minimises HSIC(Z_i, X) - beta HSIC(Z_i, Y) over its own parameters (Ma et al. 2019, arXiv:1908.01580;
Han et al. 2023, doi:10.12677/sea.2023.122019). The gradients are computed during the forward walk. When the walk calls
a layer, the inner products of the layer's activations are added to its group. When a group is complete, one program on
the stack (L, B, B) computes the losses of all its layers and their cotangents. Later layers depend on a group's
gradients, so that its activations can be freed. No gradient with respect to a layer's input is computed, except
inside a unit of several layers.
"""

import dataclasses
import fnmatch
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.kernels.ordering import depend_on
from fer_jax.layers.conv_unit import ConvUnit, Sample
from fer_jax.losses import cross_entropy, hsic
from fer_jax.models.choices import check_choice
from fer_jax.models.network import PROJECTION_HEAD, Network, Tree, inference_parameters
from fer_jax.objectives.layer_loss import LayerLoss
from fer_jax.objectives.local_units import GROUPS, UNITS, LocalUnits, check_group
from fer_jax.objectives.objective import (
  Examples,
  Objective,
  ObjectiveOutput,
  count_correct,
  global_rows,
  smoothed,
  sum_over_devices,
)


@dataclasses.dataclass(frozen=True)
class HsicBottleneck(LayerLoss):
  """Hyper-parameters of the objective: those of the layers' losses, and the grouping of the layers.

  Attributes:
    group: Set of layers whose losses are computed together: "network", "block", "triple" (three consecutive layers of
      a block) or "layer". All give the same gradients. Larger groups take fewer kernels and more memory.
    unit: Set of parameters that a layer's loss trains: "layer" for its own, or "block" to include those of earlier
      layers of its block (units of several layers: Belilovsky et al. 2019, arXiv:1812.11446). Such units cost gradients
      with respect to inputs and require a `group` of whole blocks.
    sampling: Stride of the sample of positions from which the gradients of a layer's loss are taken (see
      `layers.conv_unit`); 1 for all positions. Only for networks whose hidden layers are `ConvUnit`s.
    sampled_side: Side of the smallest feature maps that are sampled.
    classifier_blocks: Number of last blocks that have no local loss: they form a unit with the classifier, whose
      cross-entropy trains them.
    label_smoothing: Weight of the uniform distribution in the target of the classifier's cross-entropy, if the
      classifier is trained together with the hidden layers.
  """

  group: str = "layer"
  unit: str = "layer"
  sampling: int = 1
  sampled_side: int = 12
  classifier_blocks: int = 0
  label_smoothing: float = 0.0

  def __post_init__(self) -> None:
    super().__post_init__()
    check_choice("objective.group", self.group, GROUPS)
    check_choice("objective.unit", self.unit, UNITS)
    check_group(self.unit, self.group)
    least = {
      "sampling": 1,
      "sampled_side": 1,
      "classifier_blocks": 0,
      "head_layers": 0,
      "head_features": 1,
    }
    for field, smallest in least.items():
      if getattr(self, field) < smallest:
        raise ValueError(f"objective.{field}={getattr(self, field)}: expected an integer, {smallest} or more")
    most = self.sampled_side // self.sampling
    if self.head_layers and self.sampling > 1 and not self.channel_groups and not 0 < self.grid <= most:
      raise ValueError(
        f"objective.grid={self.grid}: expected 1 to {most}, because projection heads read a grid of the sampled "
        f"positions, and a map of sampled_side={self.sampled_side} rows has {most} sampled rows"
      )

  def initial(
    self, network: Network, variables: tuple[Tree, Tree], image: jax.Array, key: jax.Array
  ) -> tuple[Tree, Tree]:
    """Returns the variables together with the projection head of each hidden layer; see `ObjectiveSettings.initial`."""
    params, stats = variables
    if not self.head_layers:
      return params, stats
    outputs, _ = jax.eval_shape(functools.partial(network.apply, taps=True), params, stats, image)
    units = self._units(network, frozenset(network.layers))
    params = dict(params)
    for name, tap in zip(network.hidden, outputs.taps, strict=True):
      if name not in units.last_unit:
        layer_key = jax.random.fold_in(key, zlib.crc32(f"{name} {PROJECTION_HEAD}".encode()))
        length = jax.eval_shape(self.rows, tap).shape[-1]
        head = self.head(jnp.float32).init(layer_key, jnp.zeros((1, length)))["params"]
        params[name] = {**params[name], PROJECTION_HEAD: head}
    return params, stats

  def _units(self, network: Network, trainable: frozenset[str]) -> LocalUnits:
    return LocalUnits.of(network, trainable, self.unit, self.group, self.classifier_blocks)

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective; see `ObjectiveSettings.build` for the arguments.

    If the classifier is trainable, its cross-entropy trains the classifier and the hidden layers of its unit, but no
    other layers.

    Raises:
      ValueError: A pattern of `layer_beta` matches no hidden layer, `classifier_blocks` leaves no block
        with local losses, there are such blocks but the classifier is frozen, or a layer cannot be sampled.
    """
    self._check(network, trainable)
    units = self._units(network, trainable)
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
        units=units,
        betas=betas,
        params=inference_parameters(params),
        heads={name: params[name].get(PROJECTION_HEAD) for name in network.hidden},
        stats=stats,
        batch=batch,
        key=key,
        input_factor=self.factor(input_gram),
        label_factor=self.factor(self.label_gram(target)),
        new_stats=dict(stats),
      )
      network.walk(walk.apply, batch.image)
      if network.classifier in trainable:
        walk.classify()
      gradients = sum_over_devices(walk.gradients, axis_name)
      return ObjectiveOutput(gradients, walk.new_stats, {"loss": walk.total, **walk.metrics})

    return objective

  def _check(self, network: Network, trainable: frozenset[str]) -> None:
    if self.classifier_blocks >= len(network.blocks):
      raise ValueError(
        f"objective.classifier_blocks={self.classifier_blocks}: expected less than {len(network.blocks)}, the number "
        "of blocks of hidden layers, because the classifier's cross-entropy would train them all"
      )
    if self.classifier_blocks and network.classifier not in trainable:
      raise ValueError(
        f"objective.classifier_blocks={self.classifier_blocks}: expected {network.classifier!r} among the trainable "
        "layers, because its cross-entropy trains these blocks; add it to `train`, or set classifier_blocks=0"
      )
    unfit = [name for name in network.hidden if not isinstance(network.layers[name], ConvUnit)]
    if self.sampling > 1 and unfit:
      raise ValueError(
        f"objective.sampling={self.sampling}: expected hidden layers of type ConvUnit, as in hsic_dense, but "
        f"{unfit[0]!r} is a {type(network.layers[unfit[0]]).__name__}; set sampling=1"
      )


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
    output: Output of the layer, this device's rows.
    measured: The output, or a sample of its positions, with respect to which losses are differentiated.
    rows: Row of each example that the loss reads, [b, d].
    pull_back: Function (cotangents of rows and `measured`) -> (gradients of the parameters, cotangents of what the
      layer reads, by position in `waiting`).
  """

  name: str
  output: jax.Array
  measured: jax.Array
  rows: jax.Array
  pull_back: Callable[[tuple[jax.Array, jax.Array]], tuple[Any, dict[int, jax.Array]]]


@dataclasses.dataclass
class _LocalWalk:
  """The walk of one batch through the network, in one trace of the step.

  Attributes:
    loss: Hyper-parameters of the objective.
    network: Network to train.
    trainable: Names of the trainable layers.
    axis_name: Mapped axis of devices; None on one device.
    units: Units and groups of the layers.
    betas: Weight of the label term of each hidden layer.
    params: Parameters of all layers, without projection heads.
    heads: Parameters of the projection heads of the hidden layers; None for a layer without one.
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
    outputs: Outputs of all layers but those of the last unit.
  """

  loss: HsicBottleneck
  network: Network
  trainable: frozenset[str]
  axis_name: str | None
  units: LocalUnits
  betas: Mapping[str, float]
  params: Tree
  heads: Tree
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
  outputs: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

  def apply(self, name: str, *inputs: jax.Array) -> jax.Array:
    """Applies one layer, frozen or with its local loss; the walk calls this function."""
    if self.in_last_unit(name):
      # Applied by `classify`; here only its shape matters.
      output, _ = jax.eval_shape(
        functools.partial(self.network.call, name, key=self.key), self.params[name], self.stats[name], inputs
      )
      return jnp.zeros(output.shape, output.dtype)
    if name in self.trainable:
      self.outputs[name] = self.learn_locally(name, inputs)
    else:
      self.outputs[name] = self.network.call(name, self.params[name], self.stats[name], inputs, None)[0]
    return self.outputs[name]

  def in_last_unit(self, name: str) -> bool:
    """Returns whether the cross-entropy trains a layer."""
    return name in self.units.last_unit or (name == self.network.classifier and name in self.trainable)

  def learn_locally(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """Applies a hidden layer and adds it to its group; computes the group's gradients if it is complete."""
    # The layers of the unit that it reads: those reached by its loss.
    sources = tuple(self._source(x, name) for x in inputs)
    read = {i: self.waiting[i].measured for i in sources if i is not None}

    def layer(params: Any, read: dict[int, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, Any]]:
      if not self.is_sampled(inputs[0], name):
        own = tuple(x if i is None else read[i] for x, i in zip(inputs, sources, strict=True))
        output, stats = self.network.call(name, params, self.stats[name], own, self.key)
        measured = output
      else:
        sample = self.sample_of(name)
        samples = tuple(
          None if i is None else read[i] if read[i].shape != x.shape else sample.positions(read[i])
          for x, i in zip(inputs, sources, strict=True)
        )
        (output, measured), stats = self.network.call(
          name, params, self.stats[name], inputs, self.key, sample=sample, sampled_inputs=samples
        )
      # `measured` is what the loss reads: the output, or a sample of it.
      return (self.loss.rows(measured), measured), (output, stats)

    # The parameters are unchanged, but XLA has to compute the earlier gradients first; see `settle`.
    on_cpu = self.newest if self.loss.group == "block" else self.awaited
    params = jax.lax.platform_dependent(
      self.params[name],
      cpu=lambda params: depend_on(params, *on_cpu),
      default=lambda params: depend_on(params, *self.newest),
    )
    (rows, measured), pull_back, (output, self.new_stats[name]) = jax.vjp(layer, params, read, has_aux=True)
    self.waiting.append(_Waiting(name, output, measured, rows, pull_back))
    if name in self.units.closes_group:
      self.settle()
    return output

  def is_sampled(self, x: jax.Array, name: str) -> bool:
    """Returns whether the loss of a layer with input x reads a sample of its output."""
    layer = self.network.layers[name]
    if self.loss.sampling == 1 or layer.pool not in (1, self.loss.sampling):
      return False
    return -(-x.shape[1] // layer.stride) >= self.loss.sampled_side

  def sample_of(self, name: str) -> Sample:
    """Returns the positions that the loss of a layer reads. They are the same within a block."""
    stride, block = self.loss.sampling, self._block_of(name)
    return Sample(stride, (block % stride, block // stride % stride))

  def settle(self) -> None:
    """Computes the gradients of all layers of the group; later layers depend on them."""
    names = [layer.name for layer in self.waiting]
    # [L, B, B] for the L layers of the group
    products, pull_back = jax.vjp(
      functools.partial(self.loss.products, axis_name=self.axis_name),
      [layer.rows for layer in self.waiting],
      [self.heads[name] for name in names],
    )
    lengths = [self.loss.head_features if self.loss.head_layers else layer.rows.shape[-1] for layer in self.waiting]
    betas = jnp.asarray([self.betas[name] for name in names], jnp.float32)
    cotangents, (compressed, with_label) = self.loss.terms(
      products, jnp.asarray(lengths, jnp.float32), betas, self.input_factor, self.label_factor
    )
    of_rows, of_heads = pull_back(cotangents)
    gradients = self.pull_back(of_rows)
    # The parameters of later layers depend on these gradients. Otherwise XLA runs all forward passes first and keeps
    # every activation alive. On CPUs, unless groups are blocks, the dependence skips one group, so that the next group
    # may run ahead: this keeps several cores busy and needs hardly more memory. The largest gradient of a layer, its
    # kernel's, is enough: computing it uses all stored activations of the layer.
    leaves = [found for of_layer in gradients.values() if (found := jax.tree.leaves(of_layer))]
    self.awaited, self.newest = self.newest, [max(found, key=jnp.size) for found in leaves]
    for i, (name, of_head) in enumerate(zip(names, of_heads, strict=True)):
      self.gradients[name] = gradients[name] if of_head is None else {**gradients[name], PROJECTION_HEAD: of_head}
      self.metrics[f"hsic_{self.loss.compress}/{name}"] = compressed[i]
      self.metrics[f"hsic_label/{name}"] = with_label[i]
    self.total += jnp.sum(compressed - betas * with_label)
    self.waiting = []

  def pull_back(self, of_rows: list[jax.Array]) -> Tree:
    """Returns the gradients of the layers of the group, {layer name: tree}.

    Cotangents are propagated from layer to layer of a unit in reverse walk order. Where no other layer of the unit
    reads an output, its cotangent is zero, and XLA computes nothing for it.

    Args:
      of_rows: Cotangents of the rows of the layers, [b, d] each.
    """
    gradients: Tree = {}
    # Sum of the cotangents of each layer's output, from the later layers of its unit that read it.
    of_output: list[jax.Array | None] = [None] * len(self.waiting)
    for i, layer in reversed(list(enumerate(self.waiting))):
      own = of_output[i]
      own = jnp.zeros_like(layer.measured) if own is None else own
      gradients[layer.name], of_read = layer.pull_back((of_rows[i], own))
      for source, cotangent in of_read.items():
        before = of_output[source]
        of_output[source] = cotangent if before is None else before + cotangent
    return gradients

  def _source(self, x: jax.Array, reader: str) -> int | None:
    """Returns the position in `waiting` of the layer whose output x is, if the loss of the reader trains it."""
    for i, layer in enumerate(self.waiting):
      if layer.output is x:
        return i if self.units.reaches(layer.name, reader) else None
    return None

  def _block_of(self, name: str) -> int:
    return next(i for i, block in enumerate(self.network.blocks) if name in block)

  def classify(self) -> None:
    """Applies the layers of the last unit and computes the gradient of the cross-entropy, only for their parameters."""
    rows = global_rows(self.batch.image.shape[0], self.axis_name)

    def loss_of(params: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
      new_stats = {}

      def apply(name: str, *inputs: jax.Array) -> jax.Array:
        if name not in params:
          return self.outputs[name]
        output, new_stats[name] = self.network.call(name, params[name], self.stats[name], inputs, self.key)
        return output

      logits, _ = self.network.walk(apply, self.batch.image)
      losses = cross_entropy(logits, smoothed(self.batch.target, self.loss.label_smoothing))
      return jnp.sum(losses) / rows, (logits, new_stats)

    # The hidden layers' activations are freed first; see `settle`.
    params = {name: self.params[name] for name in self.network.layers if self.in_last_unit(name)}
    params = depend_on(params, *self.newest)
    (loss, (logits, new_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    self.new_stats.update(new_stats)
    self.gradients.update(gradients)
    correct = count_correct(logits, self.batch.target)
    loss, correct = sum_over_devices((loss, correct), self.axis_name)
    self.metrics |= {"cross_entropy": loss, "accuracy": correct / rows}
