"""The loss of one layer under the HSIC bottleneck, given the inner products of its activations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

from fer_jax.layers.pooling import adaptive_average_pool
from fer_jax.losses import hsic
from fer_jax.models.choices import check_choice

MEASURES = ("cka", "trace", "nhsic", "phsic")
KERNELS = ("cosine", "gaussian", "linear")
BANDWIDTHS = ("dimension", "median")
COMPRESSIONS = ("input", "self")


@dataclasses.dataclass(frozen=True)
class LayerLoss:
  """HSIC(Z, X) - beta HSIC(Z, Y), with its hyper-parameters; the defaults learn best here (see docs/hsic.md).

  Attributes:
    measure: "cka" (scale-free, in [0, 1]), "trace" (as printed in the 2023 paper), "nhsic" (Ma et al. 2019) or
      "phsic" (Pogodin & Latham 2020).
    epsilon: of nhsic's regularisation.
    kernel: of activations and input: "cosine", "gaussian" or "linear".
    sigma: the Gaussian kernel's bandwidths, averaged over.
    bandwidth: the unit of sigma: sqrt(d), d the length of the rows ("dimension"), or the batch's "median" distance.
    center_features: subtract the batch's mean from the features; a cosine is then that of centred features.
    compress: what the first term lowers the dependence on: "input", or "self" as pHSIC has it.
    beta: weight of the label's term against the first.
    layer_beta: shell-style patterns of layers with a beta of their own; of several that match the last counts.
    balanced: weigh classes equally in the label's kernel.
    grid: activations are averaged over a grid x grid of cells before the inner products; 0 keeps every pixel.
    channel_groups: describe an example by the deviation within each of so many groups of channels, over all pixels
      (Pogodin & Latham's grouping), in place of the grid; 0 does not.
  """

  measure: str = "cka"
  epsilon: float = 1e-3
  kernel: str = "cosine"
  sigma: tuple[float, ...] = (5.0,)
  bandwidth: str = "dimension"
  center_features: bool = True
  compress: str = "input"
  beta: float = 100.0
  layer_beta: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
  balanced: bool = True
  grid: int = 6
  channel_groups: int = 0

  def __post_init__(self) -> None:
    choices = {
      "measure": MEASURES,
      "kernel": KERNELS,
      "bandwidth": BANDWIDTHS,
      "compress": COMPRESSIONS,
    }
    for field, allowed in choices.items():
      check_choice(f"objective.{field}", getattr(self, field), allowed)
    if not self.sigma or min(self.sigma) <= 0:
      raise ValueError(f"objective.sigma={self.sigma!r}: expected one bandwidth or more, each above 0")
    if self.epsilon <= 0:
      raise ValueError(f"objective.epsilon={self.epsilon}: expected a number above 0")

  def rows(self, activations: jax.Array) -> jax.Array:
    """Returns the description of each example as one row, [b, d]; maps are pooled first."""
    if activations.ndim == 4 and self.channel_groups:
      return hsic.grouped_deviation(activations, self.channel_groups)
    return self.input_rows(activations)

  def input_rows(self, image: jax.Array) -> jax.Array:
    """Returns each image as one row, [b, d], pooled as the activations are; its few channels are not grouped."""
    if image.ndim == 4 and self.grid:
      image = adaptive_average_pool(image, self.grid)
    return image.reshape(image.shape[0], -1)

  def gram(self, products: jax.Array, dimensions: jax.Array | int) -> jax.Array:
    """Returns the Gram matrix [B, B] of activations, given their inner products and their length d."""
    if self.center_features:
      products = hsic.center(products)
    if self.kernel == "gaussian":
      return self._gaussian(products, dimensions)
    return hsic.cosine_kernel(products) if self.kernel == "cosine" else products

  def label_gram(self, target: jax.Array) -> jax.Array:
    """Returns the label Gram matrix [B, B] of the global batch's distributions [B, K]."""
    products = hsic.label_products(target, self.balanced)
    return self._gaussian(products, target.shape[-1]) if self.kernel == "gaussian" else products

  @property
  def factor(self) -> Callable[[jax.Array], jax.Array]:
    """What the measure makes of a Gram matrix before the inner product."""
    if self.measure == "nhsic":
      return functools.partial(hsic.nhsic_factor, epsilon=self.epsilon)
    return {"cka": hsic.cka_factor, "trace": hsic.trace_factor, "phsic": hsic.phsic_factor}[self.measure]

  def losses(
    self,
    stack: jax.Array,
    dimensions: jax.Array,
    betas: jax.Array,
    input_factor: jax.Array,
    label_factor: jax.Array,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Computes every layer's loss and its cotangent, one vmap over the stack.

    Args:
      stack: float32 [L, B, B], inner products of the layers' activations.
      dimensions: float32 [L], the length of each layer's rows.
      betas: float32 [L].
      input_factor: float32 [B, B], the measure's factor of the input.
      label_factor: float32 [B, B], and of the labels.

    Returns:
      float32 [L, B, B] derivatives with respect to the stack, and (compressed, with_label), each float32 [L].
    """

    def loss_of(products: jax.Array, d: jax.Array, beta: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      factor = self.factor(self.gram(products, d))
      compressed = hsic.dependence(factor, factor if self.compress == "self" else input_factor)
      with_label = hsic.dependence(factor, label_factor)
      return compressed - beta * with_label, (compressed, with_label)

    return jax.vmap(jax.grad(loss_of, has_aux=True))(stack, dimensions, betas)

  def _gaussian(self, products: jax.Array, dimensions: jax.Array | int) -> jax.Array:
    scale = hsic.median_squared_distance(products) if self.bandwidth == "median" else dimensions
    return hsic.gaussian_kernel_less_one(products, scale, self.sigma)
