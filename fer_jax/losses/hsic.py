"""Hilbert-Schmidt independence criterion (HSIC): kernels, and a family of dependence measures as one inner product.

All measures start from one matrix of inner products per batch, ``P = Z Z^T``, whatever the shape of the activations Z.
A kernel maps P to a Gram matrix K. Each measure of the dependence between Z and Y is the Frobenius inner product of two
*factors*, one computed from each Gram matrix:

    measure(K, L) = <f(K), f(L)>_F

    =========  ==============================  =======================================================
    trace      f(K) = HKH / (B - 1)            HSIC, Gretton et al. 2005 (the biased estimate)
    cka        f(K) = HKH / |HKH|_F            Cortes et al. 2012; Kornblith et al. 2019, arXiv:1905.00414
    nhsic      f(K) = HKH (HKH + eB I)^-1      Fukumizu et al. 2007; Ma et al. 2019, arXiv:1908.01580
    phsic      f(K) = (K - mean K) / B         Pogodin & Latham 2020, arXiv:2006.07123
    =========  ==============================  =======================================================

with H = I - 11^T / B and e the regularisation constant epsilon. The factors of the inputs and of the labels are
computed once per batch. The Gram matrices of the L layers of a network are stacked to [L, B, B] and processed by one
`vmap`. `hsic`, `cka`, `nhsic` and `phsic` are the measures themselves, as functions of two Gram matrices.

B is the batch size over all devices, b the number of rows on one device, D the length of a row and K the number of
classes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Squared norms below this count as zero, so that a row or layer of zeros gives 0 and not NaN.
_TINY = 1e-12
# Rounding errors of the eigenvalues of a float32 Gram matrix, as a share of their sum, with a margin.
_ROUNDING = 16 * 2.0**-23


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def inner_products(rows: jax.Array, axis_name: str | None = None) -> jax.Array:
  """Returns the inner products of all pairs of rows of the global batch.

  Under `pmap`, the rows of all devices are gathered, each device multiplies its own b rows with all B rows, and the
  products are gathered. Each device thus computes only its share of the products. The custom derivative needs one
  matrix product instead of the two of plain differentiation, because the output is symmetric. It returns the
  *contribution* of this device: sum the gradients over devices with `psum`.

  Args:
    rows: Rows of shape [..., b, D], any float dtype; products are accumulated in float32. In float16, whose largest
      number is 65,504, infinities are replaced by that number.
    axis_name: Name of the mapped device axis; None outside `pmap`.

  Returns:
    float32 [..., B, B], the same on every device.
  """
  products, _ = _inner_products_forward(rows, axis_name)
  return products


def _inner_products_forward(rows: jax.Array, axis_name: str | None) -> tuple[jax.Array, tuple]:
  rows = _saturate(rows, rows.dtype)
  global_rows = rows if axis_name is None else jax.lax.all_gather(rows, axis_name, axis=rows.ndim - 2, tiled=True)
  # [..., b, D] x [..., D, B] -> [..., b, B]
  products = jnp.matmul(rows, jnp.matrix_transpose(global_rows), preferred_element_type=jnp.float32)
  if axis_name is not None:
    # [..., b, B] -> [..., B, B]
    products = jax.lax.all_gather(products, axis_name, axis=rows.ndim - 2, tiled=True)
  return products, (rows, global_rows)


def _inner_products_backward(axis_name: str | None, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array]:
  rows, global_rows = residuals
  # P is symmetric in its two uses of `rows`: one product with the symmetrised cotangent covers both.
  cotangent += jnp.matrix_transpose(cotangent)
  if axis_name is not None:
    # Only the rows of this device: [..., B, B] -> [..., b, B]
    size = rows.shape[-2]
    cotangent = jax.lax.dynamic_slice_in_dim(cotangent, jax.lax.axis_index(axis_name) * size, size, axis=-2)
  # Large rows have small cotangents, which underflow in float16.
  dtype = jnp.float32 if rows.dtype == jnp.float16 else rows.dtype
  gradient = jnp.matmul(cotangent.astype(dtype), global_rows.astype(dtype), preferred_element_type=jnp.float32)
  return (_saturate(gradient, rows.dtype),)


inner_products.defvjp(_inner_products_forward, _inner_products_backward)


def _saturate(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Casts to `dtype`; for float16, values beyond its range are clipped to its largest finite number."""
  if dtype != jnp.float16:
    return values.astype(dtype)
  most = float(jnp.finfo(dtype).max)
  return jnp.clip(values, -most, most).astype(dtype)


def center(gram: jax.Array) -> jax.Array:
  """Returns H K H with H = I - 11^T / B, [B, B]: the Gram matrix of the mean-centred features."""
  # Row and column means instead of products with H: O(B^2) operations instead of O(B^3).
  columns = gram.mean(axis=0, keepdims=True)
  rows = gram.mean(axis=1, keepdims=True)
  return gram - columns - rows + columns.mean()


def cosine_kernel(products: jax.Array) -> jax.Array:
  """Returns the cosine kernel `k(x, y) = <x, y> / (|x| |y|)`, [B, B] -> [B, B]; zero rows give zeros."""
  inverse_norm = _inverse_sqrt(jnp.diagonal(products))
  return products * inverse_norm[:, None] * inverse_norm[None, :]


def gaussian_kernel_less_one(
  products: jax.Array, scale: int | jax.Array, sigmas: Sequence[float] = (5.0,)
) -> jax.Array:
  r"""Returns k(x, y) - 1 for :math:`k(x, y) = \mathrm{mean}_\sigma \exp(-|x - y|^2 / (2 \sigma^2 s))`.

  With s = D, the length of the rows, and the single sigma 5 this is the kernel of Ma et al.; with several sigmas it is
  their multi-kernel variant; with s = `median_squared_distance` it is the median heuristic. Centring removes the
  constant 1, so all measures are the same with and without it. At sigma 5, however, all values of k are close to 1, and
  float32 would keep only a few significant digits of their differences.

  Args:
    products: Inner products of the rows, float32 [B, B]. Centred rows lose fewer digits.
    scale: Unit s of the squared distances. If it is 0 (all rows equal), the result is 0.
    sigmas: Bandwidths in units of sqrt(s); the kernels are averaged.

  Returns:
    float32 [B, B], in (-1, 0], zero on the diagonal.
  """
  scale = jnp.asarray(scale, jnp.float32)
  # The inner maximum avoids a division by zero, whose gradient would be NaN even where it is not selected.
  relative = _squared_distances(products) * jnp.where(scale > _TINY, 1 / jnp.maximum(scale, _TINY), 0.0)
  # expm1 keeps full precision where the exponential is close to 1.
  return jnp.mean(jnp.stack([jnp.expm1(-relative / (2 * sigma**2)) for sigma in sigmas]), axis=0)


def median_squared_distance(products: jax.Array) -> jax.Array:
  """Returns the median of |x - y|^2 over pairs of distinct rows.

  This is the median heuristic for the bandwidth of a kernel (Gretton et al. 2012), which makes the kernel independent
  of the scale of the features. The value is a constant of the batch: no gradient passes through it.

  Args:
    products: Inner products of the rows, float32 [B, B].

  Returns:
    float32 scalar; 0 if there are fewer than two rows.
  """
  # Each unordered pair once, without the diagonal.
  pairs = np.triu_indices(products.shape[0], 1)
  if not len(pairs[0]):
    return jnp.zeros((), jnp.float32)
  return jax.lax.stop_gradient(jnp.median(_squared_distances(products)[pairs]))


def _squared_distances(products: jax.Array) -> jax.Array:
  # |x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>; rounding can make it slightly negative.
  squares = jnp.diagonal(products)
  return jnp.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)


def grouped_deviation(activations: jax.Array, groups: int, power: float = 0.5) -> jax.Array:
  r"""Returns the deviation of the units of each group from the mean of the group, for each example.

  Grouping of Pogodin & Latham 2020 (arXiv:2006.07123, section 4): :math:`v_\alpha = (\mathrm{var}_\alpha)^{p}` over the
  channels and pixels of a group, minus its mean over the groups. With a cosine kernel of v they report 91.9 % on
  CIFAR-10, compared with 94.3 % for back-propagation.

  Args:
    activations: Activations of shape [B, ..., C], any float dtype.
    groups: Number of groups of consecutive channels; limited to C.
    power: Exponent p; 0.5 turns the variance into the standard deviation.

  Returns:
    float32 [B, groups].
  """
  batch, channels = activations.shape[0], activations.shape[-1]
  groups = min(groups, channels)
  size = channels // groups
  # If C is not a multiple of `groups`, the last group takes the remaining channels.
  starts = np.minimum(np.arange(channels) // size, groups - 1)
  in_group = (starts[:, None] == np.arange(groups)).astype(np.float32)
  # [B, ..., C] -> [B, pixels, C]
  maps = activations.reshape(batch, -1, channels).astype(jnp.float32)
  # Membership matrix [C, groups]; its normalised columns average the channels of each group.
  average = in_group / in_group.sum(0)
  # [B, C] @ [C, groups] -> [B, groups]
  mean = jnp.mean(maps, axis=1) @ average
  # Subtract the group mean from each of its channels: [B, pixels, C]
  deviations = maps - (mean @ in_group.T)[:, None, :]
  variance = jnp.mean(deviations**2, axis=1) @ average
  # The derivative of x^p is infinite at 0 for p < 1. The inner `where` keeps it out of the gradient.
  alive = variance > _TINY
  deviation = jnp.where(alive, jnp.where(alive, variance, 1.0) ** power, 0.0)
  return deviation - deviation.mean(axis=1, keepdims=True)


def trace_factor(gram: jax.Array) -> jax.Array:
  """Returns the factor of HSIC, HKH / (B - 1), [B, B]; see the table of the module."""
  return center(gram) / max(gram.shape[0] - 1, 1)


def cka_factor(gram: jax.Array) -> jax.Array:
  """Returns the factor of CKA, HKH / |HKH|_F, [B, B]; zeros if HKH vanishes (constant features)."""
  centered = center(gram)
  return centered * _inverse_sqrt(jnp.sum(centered**2))


def nhsic_factor(gram: jax.Array, epsilon: float = 1e-3) -> jax.Array:
  """Returns the factor of normalised HSIC, HKH (HKH + epsilon B I)^-1; see the table of the module.

  Computed as I - epsilon B (HKH + epsilon B I)^-1 by a Cholesky factorisation. Eigenvalues of HKH / B far above epsilon
  count as 1, those far below as 0. At 1e-5, the value of Ma et al., full-rank noise counts almost as much as signal;
  1e-3 separates the two. Where epsilon B is below the rounding errors of the Gram matrix, as with a linear kernel of
  features in the hundreds, it is raised to them: otherwise those errors would count as signal.

  Args:
    gram: Gram matrix, float32 [B, B], positive semi-definite up to a constant, which centring removes; k - 1 is valid.
    epsilon: Regularisation constant, above 0.

  Returns:
    float32 [B, B].
  """
  batch, centered = gram.shape[0], center(gram)
  # The sum of the eigenvalues is the trace; before centring, it can be larger.
  errors = _ROUNDING * (jnp.trace(centered) + jnp.abs(jnp.trace(gram)))
  regularization = jax.lax.stop_gradient(jnp.maximum(epsilon * batch, errors))
  return jnp.eye(batch) - _regularized_inverse(centered / regularization)


@jax.custom_vjp
def _regularized_inverse(gram: jax.Array) -> jax.Array:
  """Returns (K + I)^-1, [B, B]; the custom derivative needs no second factorisation."""
  # K + I is positive definite, so a Cholesky factorisation suffices.
  identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram + identity), True), identity)


def _regularized_inverse_forward(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
  inverse = _regularized_inverse(gram)
  return inverse, inverse


def _regularized_inverse_backward(inverse: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
  # d(M^-1) = -M^-1 dM M^-1; no transposes, because the inverse is symmetric.
  return (-(inverse @ cotangent @ inverse),)


_regularized_inverse.defvjp(_regularized_inverse_forward, _regularized_inverse_backward)


def centered_cosine_cka(
  products: jax.Array, input_factor: jax.Array, label_factor: jax.Array, betas: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Computes CKA(Z, X) - beta CKA(Z, Y) for the cosine kernel of centred features Z, and its derivative, by hand.

  The values and derivatives are those of `cka_factor(cosine_kernel(center(products)))`. Products are symmetric, so the
  mean of a row is also that of a column. Automatic differentiation of the loss takes about twice as many kernels on
  a GPU, where launching them takes most of the time (docs/gpu.md).

  Args:
    products: Inner products of the activations of L layers, float32 [L, B, B].
    input_factor: `cka_factor` of the input, float32 [B, B]; it is centred.
    label_factor: `cka_factor` of the labels, float32 [B, B]; it is centred.
    betas: Weight of the label term of each layer, float32 [L].

  Returns:
    Derivatives of the losses with respect to the products, float32 [L, B, B], and the terms (CKA(Z, X), CKA(Z, Y)),
    each float32 [L].
  """
  batch = products.shape[-1]
  # Centred products C = P - s 1^T - 1 s^T, with s = row mean - total mean / 2, [L, B].
  shift = _shift(products.mean(axis=2))
  centered = _less(products, shift)
  # Cosines K = D C D with the diagonal matrix D of inverse norms, [L, B].
  inverse_norm = _inverse_sqrt(jnp.diagonal(products, axis1=1, axis2=2) - 2 * shift)
  scales = inverse_norm[:, :, None] * inverse_norm[:, None, :]
  kernel = centered * scales
  # M = HKH, and the row sums of M * M, M * X and M * Y: [3, L, B] in one pass, then the three sums, each [L].
  input_factor, label_factor = input_factor[None], label_factor[None]
  middle = _less(kernel, _shift(kernel.mean(axis=2)))
  rows = jnp.stack([jnp.sum(middle * other, axis=2) for other in (middle, input_factor, label_factor)])
  square, with_input, with_label = jnp.sum(rows, axis=2)
  unit = _inverse_sqrt(square)
  with_input, with_label = with_input * unit, with_label * unit
  loss = with_input - betas * with_label
  # dK = (T - <T, F> F) / |M| with T = X - beta Y and F = M / |M|. It is centred, because T and F are: H dK H = dK.
  target = input_factor - betas[:, None, None] * label_factor
  of_kernel = (target - (loss * unit)[:, None, None] * middle) * unit[:, None, None]
  # dC = D dK D - diag(d^2 sum_j dK_ij K_ij); its row means are computed in the same pass. Then dP = H dC H.
  of_norms = jnp.sum(of_kernel * kernel, axis=2) * inverse_norm
  across = jnp.sum(of_kernel * inverse_norm[:, None, :], axis=2)
  diagonal = jnp.eye(batch, dtype=products.dtype)[None] * (of_norms * inverse_norm)[:, :, None]
  derivative = _less(of_kernel * scales - diagonal, _shift(inverse_norm * (across - of_norms) / batch))
  return derivative, (with_input, with_label)


def _shift(means: jax.Array) -> jax.Array:
  """Returns s with HKH = K - s 1^T - 1 s^T, [L, B], from the means of the rows of K, [L, B]."""
  return means - means.mean(axis=1, keepdims=True) / 2


def _less(matrices: jax.Array, shift: jax.Array) -> jax.Array:
  """Returns K - s 1^T - 1 s^T, [L, B, B]."""
  return matrices - shift[:, :, None] - shift[:, None, :]


def phsic_factor(gram: jax.Array) -> jax.Array:
  """Returns the factor of pHSIC, (K - mean K) / B; it subtracts the overall mean instead of row means."""
  return (gram - gram.mean()) / gram.shape[0]


def dependence(factor: jax.Array, other: jax.Array) -> jax.Array:
  """Returns `<f(K), f(L)>_F`, a scalar, for two factors [B, B] of the same measure."""
  return jnp.sum(factor * other)


def hsic(gram: jax.Array, other: jax.Array) -> jax.Array:
  r"""Computes the biased trace estimate of HSIC, :math:`(B-1)^{-2} \mathrm{tr}(K H L H)`, of Gram matrices [B, B]."""
  return dependence(trace_factor(gram), trace_factor(other))


def cka(gram: jax.Array, other: jax.Array) -> jax.Array:
  r"""Computes centred kernel alignment, :math:`\langle HKH, HLH\rangle_F / (|HKH|_F |HLH|_F)`.

  The value is in [0, 1] for positive semi-definite kernels and does not change with their scale.
  """
  return dependence(cka_factor(gram), cka_factor(other))


def nhsic(gram: jax.Array, other: jax.Array, epsilon: float = 1e-3) -> jax.Array:
  r"""Computes normalised HSIC, :math:`\mathrm{tr}(\tilde K \tilde L)`, with the factors of `nhsic_factor`."""
  return dependence(nhsic_factor(gram, epsilon), nhsic_factor(other, epsilon))


def phsic(gram: jax.Array, other: jax.Array) -> jax.Array:
  """Computes "plausible" HSIC, mean(K L) - mean(K) mean(L), with means over all pairs of rows of the batch."""
  return dependence(phsic_factor(gram), phsic_factor(other))


def label_products(target: jax.Array, balanced: bool = False) -> jax.Array:
  """Returns the inner products of the label distributions of the (global) batch.

  Args:
    target: Distributions over the classes, float32 [B, K]; rows sum to 1.
    balanced: Whether to scale each class by 1 / sqrt(its total mass in the batch). Every class that is present then has
      the same weight in the centred matrix, however rare it is.

  Returns:
    float32 [B, B].
  """
  if balanced:
    target = target * _inverse_sqrt(target.sum(axis=0, keepdims=True))
  return target @ target.T


def _inverse_sqrt(squares: jax.Array) -> jax.Array:
  """Returns 1 / sqrt(x), and 0 with derivative 0 where x is (nearly) 0."""
  # The inner `where` keeps rsqrt(0) out of the gradient as well as out of the value.
  nonzero = squares > _TINY
  return jnp.where(nonzero, jax.lax.rsqrt(jnp.where(nonzero, squares, 1.0)), 0.0)
