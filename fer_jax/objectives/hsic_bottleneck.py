"""The HSIC bottleneck: every hidden layer learns from its own dependence on input and label, without back-propagation.

Layer i minimises HSIC(Z_i, X) - beta HSIC(Z_i, Y) over its own parameters (Ma et al. 2019, arXiv:1908.01580;
Han et al. 2023, doi:10.12677/sea.2023.122019). Its gradient is taken where it stands in the forward walk: the walk
calls a layer, the layer's inner products go to its group, and when a group is complete all its losses and
their cotangents are computed by one `vmap` over the stack (L, B, B). An `optimization_barrier` orders a group's
gradients before the next group's computation, so that its activations can be freed. No gradient with respect
to a layer's input is ever computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.layers.pooling import adaptive_average_pool
from fer_jax.losses import hsic
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

KERNELS = ("cosine", "gaussian", "linear")
MEASURES = {"trace": hsic.hsic, "cka": hsic.cka}
GROUPS = ("network", "block", "layer")


@dataclasses.dataclass(frozen=True)
class HsicBottleneck:
  """The objective's hyper-parameters; the defaults are the form that learns best here (see docs/hsic.md).

  Attributes:
    measure: "cka" (scale-free, in [0, 1]) or "trace" (as printed in the 2023 paper).
    kernel: of activations and input: "cosine" (of features centred over the batch), "gaussian" or "linear".
    sigma: the Gaussian kernel's bandwidth, in units of sqrt(d).
    beta: weight of the label's term against the input's.
    balanced: weigh classes equally in the label's kernel.
    grid: activations are averaged over a grid x grid of cells before the inner products; 0 keeps every pixel.
    group: how many layers one vmap settles: "network", "block" or "layer". All give the same gradients.
    label_smoothing: in the classifier's cross-entropy, where the classifier is trained beside the hidden layers.
  """

  measure: str = "cka"
  kernel: str = "cosine"
  sigma: float = 5.0
  beta: float = 100.0
  balanced: bool = True
  grid: int = 6
  group: str = "layer"
  label_smoothing: float = 0.0

  def __post_init__(self) -> None:
    for field, allowed in (("measure", tuple(MEASURES)), ("kernel", KERNELS), ("group", GROUPS)):
      if getattr(self, field) not in allowed:
        raise ValueError(f"objective.{field}={getattr(self, field)!r}: expected one of {', '.join(allowed)}")

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective for the hidden layers in `trainable`, and for the classifier if it is among them.

    The classifier then learns by its own cross-entropy, which reaches nothing but the classifier.
    """
    closes_group = self._group_ends(network, trainable)

    def objective(params: Tree, stats: Tree, batch: Examples, key: jax.Array) -> Learned:
      walk = _LocalWalk(self, network, trainable, axis_name, closes_group, params, stats, batch, key)
      return walk.learn()

    return objective

  def gram(self, products: jax.Array, dimensions: jax.Array | int) -> jax.Array:
    """Returns the centred Gram matrix [B, B] of activations, given their inner products and their length d."""
    products = hsic.center(products)  # changes no distance; the cosine is then that of centred features
    if self.kernel == "gaussian":
      return hsic.center(hsic.gaussian_kernel_less_one(products, dimensions, self.sigma))
    if self.kernel == "cosine":
      return hsic.center(hsic.cosine_kernel(products))
    return products

  def rows(self, activations: jax.Array) -> jax.Array:
    """Returns the activations of each example as one row, [b, d], pooled where they are maps."""
    if activations.ndim == 4 and self.grid:
      activations = adaptive_average_pool(activations, self.grid)
    return activations.reshape(activations.shape[0], -1)

  def label_gram(self, target: jax.Array) -> jax.Array:
    """Returns the centred label Gram matrix [B, B] of the global batch's distributions [B, K]."""
    products = hsic.label_products(target, self.balanced)
    if self.kernel == "gaussian":
      products = hsic.gaussian_kernel_less_one(products, target.shape[-1], self.sigma)
    return hsic.center(products)

  def losses(
    self, stack: jax.Array, dimensions: jax.Array, input_gram: jax.Array, label_gram: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Computes every layer's loss and its cotangent, one vmap over the stack.

    Args:
      stack: float32 [L, B, B], inner products of the layers' activations.
      dimensions: float32 [L], the length of each layer's rows.
      input_gram: float32 [B, B], centred.
      label_gram: float32 [B, B], centred.

    Returns:
      float32 [L, B, B] derivatives with respect to the stack, and (with_input, with_label), each float32 [L].
    """
    measure = MEASURES[self.measure]

    def loss_of(products: jax.Array, d: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      gram = self.gram(products, d)
      with_input, with_label = measure(gram, input_gram), measure(gram, label_gram)
      return with_input - self.beta * with_label, (with_input, with_label)

    return jax.vmap(jax.grad(loss_of, has_aux=True))(stack, dimensions)

  def _group_ends(self, network: Network, trainable: frozenset[str]) -> frozenset[str]:
    """Returns the layers after which a group is complete."""
    blocks = [[name for name in block if name in trainable] for block in network.blocks]
    blocks = [block for block in blocks if block]
    if not blocks:
      return frozenset()
    if self.group == "layer":
      return frozenset(name for block in blocks for name in block)
    if self.group == "block":
      return frozenset(_last_walked(block, network) for block in blocks)
    return frozenset({_last_walked([name for block in blocks for name in block], network)})


def _last_walked(names: list[str], network: Network) -> str:
  return [name for name in network.layers if name in names][-1]


@dataclasses.dataclass
class _LocalWalk:
  """One batch's walk: what waits for its group, what has been learned.

  It lives for one trace of the step. `learn`, called once, is a pure function of the fields.
  """

  settings: HsicBottleneck
  network: Network
  trainable: frozenset[str]
  axis_name: str | None
  closes_group: frozenset[str]
  params: Tree
  stats: Tree
  batch: Examples
  key: jax.Array

  def __post_init__(self) -> None:
    self.new_stats = dict(self.stats)
    self.gradients: Tree = {}
    self.metrics: dict[str, jax.Array] = {}
    self.loss = jnp.zeros((), jnp.float32)
    self.waiting: list[tuple[str, jax.Array, int, Callable[[jax.Array], Any]]] = []

  def learn(self) -> Learned:
    """Walks the batch through the network; returns what every trainable layer learned on the way."""
    rows = self.settings.rows(self.batch.image)
    products = hsic.inner_products(rows, self.axis_name)
    self.input_gram = self.settings.gram(products, rows.shape[-1])
    target = self.batch.target
    if self.axis_name is not None:
      target = jax.lax.all_gather(target, self.axis_name, tiled=True)
    self.label_gram = self.settings.label_gram(target)
    self.network.walk(self.apply, self.batch.image)
    gradients = sum_over_devices(self.gradients, self.axis_name)
    return Learned(gradients, self.new_stats, {"loss": self.loss, **self.metrics})

  def apply(self, name: str, *inputs: jax.Array) -> jax.Array:
    if name not in self.trainable:
      return self.network.call(name, self.params[name], self.stats[name], inputs, None)[0]
    if name == self.network.classifier:
      return self.classify(name, inputs)
    return self.learn_locally(name, inputs)

  def learn_locally(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    def products_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any, int]]:
      output, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      rows = self.settings.rows(output)
      return hsic.inner_products(rows, self.axis_name), (output, stats, rows.shape[-1])

    products, pull_back, (output, self.new_stats[name], d) = jax.vjp(products_of, self.params[name], has_aux=True)
    self.waiting.append((name, products, d, pull_back))
    return self.settle(output) if name in self.closes_group else output

  def settle(self, output: jax.Array) -> jax.Array:
    """Takes the gradients of every waiting layer, and lets the walk go on only once they are taken."""
    names = [name for name, *_ in self.waiting]
    stack = jnp.stack([products for _, products, _, _ in self.waiting])
    dimensions = jnp.asarray([d for _, _, d, _ in self.waiting], jnp.float32)
    cotangents, (with_input, with_label) = self.settings.losses(stack, dimensions, self.input_gram, self.label_gram)
    gradients = {name: pull_back(cotangents[i])[0] for i, (name, _, _, pull_back) in enumerate(self.waiting)}
    output, gradients = jax.lax.optimization_barrier((output, gradients))
    self.gradients.update(gradients)
    for i, name in enumerate(names):
      self.metrics[f"hsic_input/{name}"] = with_input[i]
      self.metrics[f"hsic_label/{name}"] = with_label[i]
    self.loss += jnp.sum(with_input - self.settings.beta * with_label)
    self.waiting = []
    return output

  def classify(self, name: str, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """Trains the classifier on features that it cannot change."""
    rows = global_rows(self.batch.image.shape[0], self.axis_name)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      logits, stats = self.network.call(name, params, self.stats[name], inputs, self.key)
      losses = cross_entropy(logits, self.batch.target, self.settings.label_smoothing)
      return jnp.sum(losses) / rows, (logits, stats)

    (loss, (logits, self.new_stats[name])), self.gradients[name] = jax.value_and_grad(loss_of, has_aux=True)(
      self.params[name]
    )
    correct = count_correct(logits, self.batch.target)
    loss, correct = sum_over_devices((loss, correct), self.axis_name)
    self.metrics |= {"cross_entropy": loss, "accuracy": correct / rows}
    return logits
