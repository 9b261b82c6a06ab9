"""The HSIC bottleneck loss of one layer, computed from the inner products of its activations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fer_jax.layers.pooling import adaptive_average_pool
from fer_jax.layers.projection_head import ProjectionHead
from fer_jax.losses import hsic
from fer_jax.models.choices import check_choice

MEASURES = ("cka", "trace", "nhsic", "phsic")
KERNELS = ("cosine", "gaussian", "linear")
BANDWIDTHS = ("dimension", "median")
COMPRESSIONS = ("input", "self")


@dataclasses.dataclass(frozen=True)
class LayerLoss:
  """The loss HSIC(Z, X) - beta HSIC(Z, Y) of activations Z, input X and labels Y, and its hyper-parameters.

  The defaults gave the best results in this repository; see docs/hsic_dense.md.

  Attributes:
    measure: Measure of dependence: "cka" (scale-free, in [0, 1]), "trace" (as printed in the 2023 paper), "nhsic" (Ma
      et al. 2019) or "phsic" (Pogodin & Latham 2020).
    epsilon: Regularisation of nhsic, above 0.
    kernel: Kernel of activations and input: "cosine", "gaussian" or "linear".
    sigma: Bandwidths of the Gaussian kernel; the kernels of several bandwidths are averaged.
    bandwidth: Unit of sigma: "dimension" for sqrt(d) with d the length of the rows, or "median" for the median distance
      in the batch.
    center_features: Whether the batch mean is subtracted from the features, so that a cosine is that of centred ones.
    compress: Variable on which the first term reduces the dependence: "input", or "self" as in pHSIC.
    beta: Weight of the label term relative to the first term.
    layer_beta: Values of beta for individual layers, by shell-style pattern; the last matching pattern applies.
    balanced: Whether all classes have equal weight in the label kernel.
    grid: Side of the grid that activations are averaged over before the inner products; 0 keeps every pixel.
    head_layers: Number of dense layers between an example's row and the kernel, which make it a learned kernel; 0 for
      none (`layers.projection_head`; Nokland & Eidnes 2019, arXiv:1901.06656). They belong to the hidden layer, are
      trained by its loss and are not used at inference.
    head_features: Number of output features of these layers.
    channel_groups: Number of channel groups if an example is described by the deviation within each group over all
      pixels (the grouping of Pogodin & Latham) instead of by the grid; 0 disables grouping.
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
  head_layers: int = 0
  head_features: int = 256
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
      raise ValueError(f"objective.sigma={self.sigma!r}: expected at least one bandwidth, each above 0")
    if self.epsilon <= 0:
      raise ValueError(f"objective.epsilon={self.epsilon}: expected a number above 0")

  def head(self, dtype: DTypeLike) -> ProjectionHead:
    """Returns the dense layers of a learned kernel for rows of a dtype."""
    return ProjectionHead(self.head_layers, self.head_features, dtype)

  def rows(self, activations: jax.Array) -> jax.Array:
    """Returns each example as one row.

    Args:
      activations: Activations of a layer, [b, h, w, C] or [b, D].

    Returns:
      Group deviations, or the activations averaged over the grid, [b, d].
    """
    if activations.ndim == 4 and self.channel_groups:
      return hsic.grouped_deviation(activations, self.channel_groups)
    return self.input_rows(activations)

  def products(self, rows: Sequence[jax.Array], heads: Sequence[Any], axis_name: str | None) -> jax.Array:
    """Returns the inner products that enter the kernels, of L layers at once.

    Rows of different lengths are padded with zeros, and the kernels of the projection heads with them, so that one
    product replaces those of L layers.

    Args:
      rows: Rows of the layers, [b, d_i] each, of the same dtype.
      heads: Parameters of the layers' projection heads; not used without them.
      axis_name: Name of the mapped device axis; None outside `pmap`.

    Returns:
      float32 [L, B, B].
    """
    stack = _stack_padded(rows)  # [L, b, d]
    if self.head_layers:
      apply = self.head(stack.dtype).apply
      parameters = jax.tree.map(lambda *leaves: _stack_padded(leaves), *heads)
      # [L, b, d] -> [L, b, head_features]
      stack = jnp.asarray(jax.vmap(lambda params, rows: apply({"params": params}, rows))(parameters, stack))
    return hsic.inner_products(stack, axis_name)

  def input_rows(self, image: jax.Array) -> jax.Array:
    """Returns each image as one row, [b, d], averaged over the grid; image channels are too few to be grouped."""
    if image.ndim == 4 and self.grid:
      image = adaptive_average_pool(image, self.grid)
    # [b, grid, grid, C] -> [b, grid * grid * C]
    return image.reshape(image.shape[0], -1)

  def gram(self, products: jax.Array, dimensions: jax.Array | int) -> jax.Array:
    """Returns the Gram matrix of activations.

    Args:
      products: Inner products of the rows of the global batch, float32 [B, B].
      dimensions: Length d of the rows.

    Returns:
      Gram matrix, float32 [B, B]; for the Gaussian kernel it is k - 1, because every measure removes constants.
    """
    # Centring the inner products is the same as centring the rows, which are not needed here.
    if self.center_features:
      products = hsic.center(products)
    if self.kernel == "gaussian":
      return self._gaussian(products, dimensions)
    return hsic.cosine_kernel(products) if self.kernel == "cosine" else products

  def label_gram(self, target: jax.Array) -> jax.Array:
    """Returns the label Gram matrix, float32 [B, B], of the targets of the global batch, float32 [B, K]."""
    products = hsic.label_products(target, self.balanced)
    return self._gaussian(products, target.shape[-1]) if self.kernel == "gaussian" else products

  @property
  def factor(self) -> Callable[[jax.Array], jax.Array]:
    """Function that maps a Gram matrix [B, B] to its factor; the measure is the inner product of two factors."""
    if self.measure == "nhsic":
      return functools.partial(hsic.nhsic_factor, epsilon=self.epsilon)
    return {"cka": hsic.cka_factor, "trace": hsic.trace_factor, "phsic": hsic.phsic_factor}[self.measure]

  def terms(
    self,
    stack: jax.Array,
    dimensions: jax.Array,
    betas: jax.Array,
    input_factor: jax.Array,
    label_factor: jax.Array,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Computes the two terms of every layer's loss and its derivative, for L layers at once.

    Args:
      stack: Inner products of the layers' activations, float32 [L, B, B].
      dimensions: Length of each layer's rows, float32 [L].
      betas: Weight of each layer's label term, float32 [L].
      input_factor: Factor of the input, float32 [B, B].
      label_factor: Factor of the labels, float32 [B, B].

    Returns:
      Derivatives of the losses with respect to the stack, float32 [L, B, B], and the terms (compressed, with_label),
      each float32 [L].
    """

    def loss_of(products: jax.Array, d: jax.Array, beta: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
      factor = self.factor(self.gram(products, d))
      compressed = hsic.dependence(factor, factor if self.compress == "self" else input_factor)
      with_label = hsic.dependence(factor, label_factor)
      return compressed - beta * with_label, (compressed, with_label)

    if (self.measure, self.kernel, self.center_features, self.compress) == ("cka", "cosine", True, "input"):
      return hsic.centered_cosine_cka(stack, input_factor, label_factor, betas)
    return jax.vmap(jax.grad(loss_of, has_aux=True))(stack, dimensions, betas)

  def _gaussian(self, products: jax.Array, dimensions: jax.Array | int) -> jax.Array:
    # Squared distances are measured in units of `scale`: the square of the unit of sigma.
    scale = hsic.median_squared_distance(products) if self.bandwidth == "median" else dimensions
    return hsic.gaussian_kernel_less_one(products, scale, self.sigma)


def _stack_padded(arrays: Sequence[jax.Array]) -> jax.Array:
  """Stacks arrays that may differ in length along each axis; shorter ones are padded with zeros at the end."""
  shape = np.max([array.shape for array in arrays], axis=0)
  return jnp.stack([jnp.pad(x, [(0, most - n) for most, n in zip(shape, x.shape, strict=True)]) for x in arrays])
