r"""The Hilbert-Schmidt independence criterion: kernels, and a family of measures made of one inner product.

Everything here starts from one matrix of inner products a batch, ``P = Z Z^T``, whatever the shape of the
activations Z. A kernel turns P into a Gram matrix K. Every measure of the dependence of Z on Y is then a Frobenius
inner product of what the measure makes of each Gram matrix, its *factor*:

    measure(K, L) = <f(K), f(L)>_F

    =========  ==============================  =======================================================
    trace      f(K) = HKH / (B - 1)            HSIC, Gretton et al. 2005 (the biased estimate)
    cka        f(K) = HKH / |HKH|_F            Cortes et al. 2012; Kornblith et al. 2019, arXiv:1905.00414
    nhsic      f(K) = HKH (HKH + eB I)^-1      Fukumizu et al. 2007; Ma et al. 2019, arXiv:1908.01580
    phsic      f(K) = (K - mean K) / B         Pogodin & Latham 2020, arXiv:2006.07123
    =========  ==============================  =======================================================

with H = I - 11^T / B. So what the batch's input and labels contribute is computed once, and the layers of a
network stack to (L, B, B) and are treated by one `vmap`. `hsic`, `cka`, `nhsic` and `phsic` are the measures
themselves, of two Gram matrices.

Let B be the batch (over all devices), b the rows of one device, D a row's length, K the classes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

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
    rows: [b, D], any float dtype; products are accumulated in float32. An infinity, which float16 reaches at
      65,504, counts as the largest number of the dtype.
    axis_name: the mapped axis of devices; None outside `pmap`.

  Returns:
    float32 [B, B], the same on every device.
  """
  products, _ = _inner_products_forward(rows, axis_name)
  return products


def _inner_products_forward(rows: jax.Array, axis_name: str | None) -> tuple[jax.Array, tuple]:
  rows = _saturate(rows, rows.dtype)
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
  if rows.dtype == jnp.float16:  # the cotangent of large rows is small beyond float16's range
    everyone = everyone.astype(jnp.float32)
  gradient = jnp.matmul(cotangent.astype(everyone.dtype), everyone, preferred_element_type=jnp.float32)
  return (_saturate(gradient, rows.dtype),)


inner_products.defvjp(_inner_products_forward, _inner_products_backward)


def _saturate(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Casts, with the dtype's largest number in place of infinity where the dtype is narrow (float16)."""
  if dtype != jnp.float16:
    return values.astype(dtype)
  most = float(jnp.finfo(dtype).max)
  return jnp.clip(values, -most, most).astype(dtype)


def center(gram: jax.Array) -> jax.Array:
  """Returns H K H, H = I - 11^T / B: the Gram matrix [B, B] of the features less their mean."""
  columns = gram.mean(axis=0, keepdims=True)
  rows = gram.mean(axis=1, keepdims=True)
  return gram - columns - rows + columns.mean()


def cosine_kernel(products: jax.Array) -> jax.Array:
  """Returns k(x, y) = <x, y> / (|x| |y|), [B, B] -> [B, B]; a zero row gives zeros."""
  inverse_norm = _inverse_sqrt(jnp.diagonal(products))
  return products * inverse_norm[:, None] * inverse_norm[None, :]


def gaussian_kernel_less_one(
  products: jax.Array, scale: int | jax.Array, sigmas: Sequence[float] = (5.0,)
) -> jax.Array:
  r"""Returns k(x, y) - 1 for :math:`k(x, y) = \mathrm{mean}_\sigma \exp(-|x - y|^2 / (2 \sigma^2 s))`.

  With s = d, the rows' length, and one sigma of 5 it is the kernel of Ma et al.; with several, their multi-kernel form;
  with `median_squared_distance` as s, the median heuristic. Centring removes the constant, so every measure is
  the same with and without it; but at sigma 5 all of k lies close to 1, and float32 would keep only a few
  digits of what matters.

  Args:
    products: float32 [B, B], inner products of the rows; centred ones lose fewer digits.
    scale: s, what squared distances are measured in; where it is 0 (rows all alike) so is the result.
    sigmas: bandwidths in units of sqrt(s); the kernels are averaged.

  Returns:
    float32 [B, B], in (-1, 0], zeros on the diagonal.
  """
  scale = jnp.asarray(scale, jnp.float32)
  relative = _squared_distances(products) * jnp.where(scale > _TINY, 1 / jnp.maximum(scale, _TINY), 0.0)
  return jnp.mean(jnp.stack([jnp.expm1(-relative / (2 * sigma**2)) for sigma in sigmas]), axis=0)


def median_squared_distance(products: jax.Array) -> jax.Array:
  """Returns the median of |x - y|^2 over pairs of distinct rows, a float32 scalar, as a constant of the batch.

  The median heuristic for a kernel's bandwidth (Gretton et al. 2012): the kernel then has no scale of its own.
  No gradient passes through it.

  Args:
    products: float32 [B, B], inner products of the rows.
  """
  pairs = np.triu_indices(products.shape[0], 1)
  if not len(pairs[0]):
    return jnp.zeros((), jnp.float32)
  return jax.lax.stop_gradient(jnp.median(_squared_distances(products)[pairs]))


def _squared_distances(products: jax.Array) -> jax.Array:
  squares = jnp.diagonal(products)
  return jnp.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)


def grouped_deviation(activations: jax.Array, groups: int, power: float = 0.5) -> jax.Array:
  r"""Returns how far the units of each group lie from the group's mean, for each example.

  The grouping of Pogodin & Latham 2020 (arXiv:2006.07123, section 4): :math:`v_\alpha = (\mathrm{var}_\alpha)^{p}`
  over a group's channels and all its pixels, less its mean over the groups. With a cosine kernel of v they report
  91.9 % on CIFAR-10, where back-propagation has 94.3 %.

  Args:
    activations: [B, ..., C], any float dtype.
    groups: of consecutive channels; at most C.
    power: p; 0.5 makes a standard deviation of the variance.

  Returns:
    float32 [B, groups].
  """
  batch, channels = activations.shape[0], activations.shape[-1]
  groups = min(groups, channels)
  size = channels // groups
  # What does not divide evenly is left to the last group, by its size.
  starts = np.minimum(np.arange(channels) // size, groups - 1)
  member = (starts[:, None] == np.arange(groups)).astype(np.float32)
  maps = activations.reshape(batch, -1, channels).astype(jnp.float32)
  average = member / member.sum(0)
  mean = jnp.mean(maps, axis=1) @ average
  deviations = maps - (mean @ member.T)[:, None, :]
  variance = jnp.mean(deviations**2, axis=1) @ average
  alive = variance > _TINY
  deviation = jnp.where(alive, jnp.where(alive, variance, 1.0) ** power, 0.0)
  return deviation - deviation.mean(axis=1, keepdims=True)


def trace_factor(gram: jax.Array) -> jax.Array:
  """Returns HKH / (B - 1); see the module's table."""
  return center(gram) / max(gram.shape[0] - 1, 1)


def cka_factor(gram: jax.Array) -> jax.Array:
  """Returns HKH / |HKH|_F, and zeros where HKH vanishes (constant features); see the module's table."""
  centered = center(gram)
  return centered * _inverse_sqrt(jnp.sum(centered**2))


def nhsic_factor(gram: jax.Array, epsilon: float = 1e-3) -> jax.Array:
  """Returns HKH (HKH + epsilon B I)^-1; see the module's table.

  Computed by a Cholesky factorisation as I - epsilon B (HKH + epsilon B I)^-1. The eigenvalues of HKH / B far
  above epsilon count as 1, those far below as 0: at 1e-5, the value of Ma et al., noise of full rank counts almost as
  much as signal; 1e-3 tells them apart.

  Args:
    gram: float32 [B, B], positive semi-definite up to a constant (so k - 1 will do).
    epsilon: of the regularisation, above 0.
  """
  batch = gram.shape[0]
  return jnp.eye(batch) - _regularized_inverse(center(gram) / (epsilon * batch))


@jax.custom_vjp
def _regularized_inverse(gram: jax.Array) -> jax.Array:
  """Returns (K + I)^-1, [B, B]; its derivative needs no second factorisation."""
  identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram + identity), True), identity)


def _regularized_inverse_forward(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
  inverse = _regularized_inverse(gram)
  return inverse, inverse


def _regularized_inverse_backward(inverse: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
  return (-(inverse @ cotangent @ inverse),)  # the inverse is symmetric


_regularized_inverse.defvjp(_regularized_inverse_forward, _regularized_inverse_backward)


def phsic_factor(gram: jax.Array) -> jax.Array:
  """Returns (K - mean K) / B; see the module's table. Unlike HSIC's, it needs no row's mean."""
  return (gram - gram.mean()) / gram.shape[0]


def dependence(factor: jax.Array, other: jax.Array) -> jax.Array:
  """Returns <f(K), f(L)>_F, a scalar, of two factors [B, B] of the same kind."""
  return jnp.sum(factor * other)


def hsic(gram: jax.Array, other: jax.Array) -> jax.Array:
  r"""Computes the (biased) trace estimate :math:`(B-1)^{-2} \mathrm{tr}(K H L H)` of two Gram matrices [B, B]."""
  return dependence(trace_factor(gram), trace_factor(other))


def cka(gram: jax.Array, other: jax.Array) -> jax.Array:
  r"""Computes centred kernel alignment, :math:`\langle HKH, HLH\rangle_F / (|HKH|_F |HLH|_F)`.

  Lies in [0, 1] for positive semi-definite kernels and does not change with their scale.
  """
  return dependence(cka_factor(gram), cka_factor(other))


def nhsic(gram: jax.Array, other: jax.Array, epsilon: float = 1e-3) -> jax.Array:
  r"""Computes normalised HSIC, :math:`\mathrm{tr}(\tilde K \tilde L)` with the factors of `nhsic_factor`."""
  return dependence(nhsic_factor(gram, epsilon), nhsic_factor(other, epsilon))


def phsic(gram: jax.Array, other: jax.Array) -> jax.Array:
  """Computes "plausible" HSIC, mean(K L) - mean(K) mean(L), over the pairs of the batch."""
  return dependence(phsic_factor(gram), phsic_factor(other))


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
