r"""The Hilbert-Schmidt independence criterion on Gram matrices, and the bottleneck objective made of it.

Everything here starts from one matrix of inner products a batch, ``P = Z Z^T``, whatever the shape of the
activations Z. A kernel turns P into a Gram matrix, centring and a measure turn two Gram matrices into a
number. So the layers of a network stack to (L, B, B) and are treated by one `vmap`.

Let B be the batch (over all devices), b the rows of one device, D a row's length, K the classes.

Sources: HSIC, Gretton et al. 2005; the bottleneck, Ma, Lewis & Kleijn 2019 (arXiv:1908.01580) and
Han et al. 2023 (doi:10.12677/sea.2023.122019, the trace form); CKA, Cortes et al. 2012 and Kornblith et al. 2019
(arXiv:1905.00414); the cosine kernel for activations, Pogodin & Latham 2020 (arXiv:2006.07123).
"""

import functools

import jax
import jax.numpy as jnp

# Below this a squared norm is taken as zero: a dead row or layer then gives 0, not NaN.
_TINY = 1e-12


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def inner_products(rows: jax.Array, axis_name: str | None = None) -> jax.Array:
  """Returns the inner products of every row of the global batch with every other.

  Under `pmap` the rows of all devices are gathered, each device multiplies its own b rows with all B, and
  the results are gathered, so that the products cost no device more than its share. The derivative
  needs one product, not the two of plain differentiation, since the output is symmetric. It is this
  device's *contribution*: gradients are completed by a `psum`.

  Args:
    rows: [b, D], any float dtype; products are accumulated in float32.
    axis_name: the mapped axis of devices; None outside `pmap`.

  Returns:
    float32 [B, B], the same on every device.
  """
  products, _ = _inner_products_forward(rows, axis_name)
  return products


def _inner_products_forward(rows: jax.Array, axis_name: str | None) -> tuple[jax.Array, tuple]:
  everyone = rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)
  products = jnp.matmul(rows, everyone.T, preferred_element_type=jnp.float32)
  if axis_name is not None:
    products = jax.lax.all_gather(products, axis_name, tiled=True)
  return products, (rows, everyone)


def _inner_products_backward(axis_name: str | None, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array]:
  rows, everyone = residuals
  cotangent = cotangent + cotangent.T
  if axis_name is not None:
    start = jax.lax.axis_index(axis_name) * rows.shape[0]
    cotangent = jax.lax.dynamic_slice_in_dim(cotangent, start, rows.shape[0])
  gradient = jnp.matmul(cotangent.astype(rows.dtype), everyone, preferred_element_type=jnp.float32)
  return (gradient.astype(rows.dtype),)


inner_products.defvjp(_inner_products_forward, _inner_products_backward)


def center(gram: jax.Array) -> jax.Array:
  """Returns H K H, H = I - 11^T / B: the Gram matrix [B, B] of the features less their mean."""
  columns = gram.mean(axis=0, keepdims=True)
  rows = gram.mean(axis=1, keepdims=True)
  return gram - columns - rows + columns.mean()


def cosine_kernel(products: jax.Array) -> jax.Array:
  """Returns k(x, y) = <x, y> / (|x| |y|), [B, B] -> [B, B]; a zero row gives zeros."""
  inverse_norm = _inverse_sqrt(jnp.diagonal(products))
  return products * inverse_norm[:, None] * inverse_norm[None, :]


def gaussian_kernel_less_one(products: jax.Array, dimensions: int | jax.Array, sigma: float = 5.0) -> jax.Array:
  r"""Returns k(x, y) - 1 for :math:`k(x, y) = \exp(-|x - y|^2 / (2 \sigma^2 d))`, the kernel of Ma et al.

  Centring removes the constant, so every measure is the same with and without it; but at sigma 5 all of k lies
  close to 1, and float32 would keep only a few digits of what matters.

  Args:
    products: float32 [B, B], inner products of the rows; centred ones lose fewer digits.
    dimensions: d, the rows' length.
    sigma: bandwidth in units of sqrt(d).

  Returns:
    float32 [B, B], in (-1, 0], zeros on the diagonal.
  """
  squares = jnp.diagonal(products)
  distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
  return jnp.expm1(-distances / (2 * sigma**2 * dimensions))


def hsic(centered_gram: jax.Array, gram: jax.Array) -> jax.Array:
  r"""Computes the (biased) trace estimate :math:`(B-1)^{-2} \mathrm{tr}(K H L H)` with K already centred.

  Centring one of the two is enough, since H is idempotent.
  """
  return jnp.sum(centered_gram * gram) / (gram.shape[0] - 1) ** 2


def cka(centered_gram: jax.Array, other_centered_gram: jax.Array) -> jax.Array:
  r"""Computes centred kernel alignment, :math:`\langle K, L\rangle_F / (|K|_F |L|_F)` of centred K and L.

  Lies in [0, 1] for positive semi-definite kernels; 0 where a matrix vanishes (constant features).
  """
  norms = _inverse_sqrt(jnp.sum(centered_gram**2)) * _inverse_sqrt(jnp.sum(other_centered_gram**2))
  return jnp.sum(centered_gram * other_centered_gram) * norms


def label_products(target: jax.Array, balanced: bool = False) -> jax.Array:
  """Returns the inner products of the label distributions of the (global) batch.

  Args:
    target: float32 [B, K], rows that sum to 1.
    balanced: divide each class's direction by its mass in the batch, so that every class present has the same
      weight in the centred matrix however rare it is.

  Returns:
    float32 [B, B].
  """
  if balanced:
    target = target * _inverse_sqrt(target.sum(axis=0, keepdims=True))
  return target @ target.T


def _inverse_sqrt(squares: jax.Array) -> jax.Array:
  """Returns 1 / sqrt(x), and 0 (with zero derivative) where x is nothing."""
  something = squares > _TINY
  return jnp.where(something, jax.lax.rsqrt(jnp.where(something, squares, 1.0)), 0.0)
