"""HSIC measures: comparison with the definitions in float64, with identities and with finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from fer_jax.losses import hsic

B, D = 24, 10
MEASURES = [hsic.hsic, hsic.cka, hsic.nhsic, hsic.phsic]


@pytest.fixture
def rows():
  return np.random.default_rng(0).normal(size=(B, D))


@pytest.fixture
def other():
  return np.random.default_rng(1).normal(size=(B, 3))


def products(z):
  return jnp.asarray(z @ z.T, jnp.float32)


def centering(n):
  return np.eye(n) - np.full((n, n), 1 / n)


def gaussian(z, sigma):
  squares = ((z[:, None] - z[None]) ** 2).sum(-1)
  return np.exp(-squares / (2 * sigma**2 * z.shape[1]))


def cosine(z):
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  return unit @ unit.T


def trace_hsic(k, l):
  h = centering(len(k))
  return np.trace(k @ h @ l @ h) / (len(k) - 1) ** 2


def test_inner_products_equal_zzt(rows):
  np.testing.assert_allclose(hsic.inner_products(jnp.asarray(rows, jnp.float32)), rows @ rows.T, rtol=1e-5, atol=1e-5)


def test_inner_products_accumulate_bfloat16_rows_in_float32(rows):
  low = jnp.asarray(rows, jnp.bfloat16)
  exact = np.asarray(low, np.float64)
  found = hsic.inner_products(low)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, exact @ exact.T, rtol=1e-5, atol=1e-5)


def test_gradient_of_inner_products_equals_automatic_differentiation(rows):
  z = jnp.asarray(rows, jnp.float32)
  weight = jax.random.normal(jax.random.key(0), (B, B))  # not symmetric on purpose
  ours = jax.grad(lambda z: jnp.sum(weight * jnp.sin(hsic.inner_products(z))))(z)
  plain = jax.grad(lambda z: jnp.sum(weight * jnp.sin(z @ z.T)))(z)
  np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_inner_products_of_several_layers_equal_those_of_each(rows):
  z = jnp.asarray(np.stack([rows, np.cos(rows)]), jnp.float32)
  weight = jax.random.normal(jax.random.key(0), (2, B, B))
  found = jax.value_and_grad(lambda z: jnp.sum(weight * jnp.sin(hsic.inner_products(z))))(z)
  each = jax.value_and_grad(
    lambda z: sum(jnp.sum(w * jnp.sin(hsic.inner_products(x))) for w, x in zip(weight, z, strict=True))
  )(z)
  np.testing.assert_allclose(found[0], each[0], rtol=1e-5)
  np.testing.assert_allclose(found[1], each[1], rtol=1e-5, atol=1e-5)


def cosine_of_centered(products):
  centered = products - products.mean(0, keepdims=True) - products.mean(1, keepdims=True) + products.mean()
  norms = jnp.sqrt(jnp.diagonal(centered))
  return centered / norms[:, None] / norms[None, :]


def test_centered_cosine_cka_equals_automatic_differentiation(rows, other):
  """The reference is computed in float64."""
  layers = [rows, rows[:, :2] ** 2 + 0.1 * rows[:, 1:3], np.tanh(rows)]
  betas = np.array([100.0, 3.0, 0.0])

  def factor(products):
    kernel = cosine_of_centered(products)
    kernel = kernel - kernel.mean(0, keepdims=True) - kernel.mean(1, keepdims=True) + kernel.mean()
    return kernel / jnp.sqrt(jnp.sum(kernel**2))

  with jax.enable_x64(True):
    targets = [factor(jnp.asarray(z @ z.T)) for z in (other, rows[:, :3] + other)]

    def loss(products, beta):
      terms = [jnp.sum(factor(products) * target) for target in targets]
      return terms[0] - beta * terms[1], terms

    stack = jnp.asarray(np.stack([z @ z.T for z in layers]))
    expected = jax.tree.map(np.asarray, jax.vmap(jax.grad(loss, has_aux=True))(stack, jnp.asarray(betas)))
    stack, betas, *targets = (np.asarray(x, np.float32) for x in (stack, betas, *targets))
  found = hsic.centered_cosine_cka(stack, *targets, betas)
  gradient, terms = expected
  expected = ((gradient + gradient.transpose(0, 2, 1)) / 2, terms)  # the symmetric part
  for ours, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=2e-5 * np.abs(reference).max())


def test_centered_cosine_cka_of_dead_layers_is_zero(rows, other):
  factors = [hsic.cka_factor(products(other)), hsic.cka_factor(products(rows))]
  stack = jnp.stack([jnp.zeros((B, B)), jnp.ones((B, B)), products(np.where(np.arange(B)[:, None] == 3, 0, rows))])
  gradient, terms = hsic.centered_cosine_cka(stack, *factors, jnp.ones(3))
  assert all(np.isfinite(x).all() for x in (gradient, *terms))
  np.testing.assert_array_equal([x[:2] for x in terms], 0)
  np.testing.assert_array_equal(gradient[:2], 0)


@pytest.mark.parametrize("devices", [2, 4])
def test_inner_products_over_devices_equal_one_device(rows, devices):
  z = jnp.asarray(rows, jnp.float32)
  weight = jax.random.normal(jax.random.key(0), (B, B))

  def loss(part, axis_name=None):
    return jnp.sum(weight * jnp.sin(hsic.inner_products(part, axis_name)))

  on_devices = jax.pmap(
    jax.value_and_grad(functools.partial(loss, axis_name="d")), axis_name="d", devices=jax.devices()[:devices]
  )
  value, gradient = on_devices(z.reshape(devices, B // devices, D))
  expected_value, expected_gradient = jax.value_and_grad(loss)(z)
  np.testing.assert_allclose(value, np.full(devices, expected_value), atol=1e-4)
  np.testing.assert_allclose(gradient.reshape(B, D), expected_gradient, rtol=1e-4, atol=1e-5)


def test_center_equals_hkh(rows):
  h = centering(B)
  np.testing.assert_allclose(hsic.center(products(rows)), h @ (rows @ rows.T) @ h, rtol=1e-4, atol=1e-4)


def test_center_equals_the_products_of_centered_rows(rows):
  centered = rows - rows.mean(axis=0)
  np.testing.assert_allclose(hsic.center(products(rows)), centered @ centered.T, rtol=1e-4, atol=1e-4)


def test_gaussian_kernel_matches_its_definition_and_ignores_translation(rows):
  expected = gaussian(rows, 5.0)
  np.testing.assert_allclose(1 + hsic.gaussian_kernel_less_one(products(rows), D), expected, rtol=1e-5)
  np.testing.assert_allclose(1 + hsic.gaussian_kernel_less_one(hsic.center(products(rows + 3)), D), expected, rtol=1e-4)


def test_cosine_kernel_matches_its_definition(rows):
  np.testing.assert_allclose(hsic.cosine_kernel(products(rows)), cosine(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 5.0])
def test_trace_hsic_matches_float64(rows, other, sigma):
  found = hsic.hsic(
    hsic.gaussian_kernel_less_one(products(rows), D, (sigma,)),
    hsic.gaussian_kernel_less_one(products(other), 3, (sigma,)),
  )
  np.testing.assert_allclose(found, trace_hsic(gaussian(rows, sigma), gaussian(other, sigma)), rtol=1e-4)


def test_several_bandwidths_are_averaged(rows):
  expected = np.mean([gaussian(rows, sigma) for sigma in (0.5, 1.0, 2.0)], axis=0)
  found = 1 + hsic.gaussian_kernel_less_one(products(rows), D, (0.5, 1.0, 2.0))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_median_squared_distance_is_over_distinct_pairs_without_gradient(rows):
  np.testing.assert_allclose(hsic.median_squared_distance(products(rows)), np.median(pdist(rows) ** 2), rtol=1e-5)
  slope = jax.grad(hsic.median_squared_distance)(products(rows))
  np.testing.assert_array_equal(slope, np.zeros((B, B)))


def test_median_bandwidth_makes_the_kernel_scale_invariant(rows):
  def kernel(z):
    return hsic.gaussian_kernel_less_one(products(z), hsic.median_squared_distance(products(z)), (1.0,))

  np.testing.assert_allclose(kernel(100 * rows), kernel(rows), rtol=1e-4, atol=1e-5)


def test_linear_hsic_with_itself_is_the_squared_covariance_norm(rows):
  covariance = np.cov(rows, rowvar=False)
  found = hsic.hsic(products(rows), products(rows))
  np.testing.assert_allclose(found, (covariance**2).sum(), rtol=1e-4)


def test_cka_matches_float64_and_is_one_for_equal_kernels(rows, other):
  h = centering(B)
  k, l = h @ cosine(rows) @ h, h @ cosine(other) @ h
  expected = (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)
  ours = [hsic.cosine_kernel(products(z)) for z in (rows, other)]
  np.testing.assert_allclose(hsic.cka(*ours), expected, rtol=1e-4)
  np.testing.assert_allclose(hsic.cka(ours[0], ours[0]), 1.0, rtol=1e-5)


def test_cka_is_invariant_to_scaling_and_rotation(rows, other):
  rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))
  plain = hsic.cka(products(rows), products(other))
  np.testing.assert_allclose(hsic.cka(products(7 * rows @ rotation), products(other)), plain, rtol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1e-1])
def test_nhsic_matches_float64(rows, other, epsilon):
  h = centering(B)

  def factor(k):
    k = h @ k @ h
    return k @ np.linalg.inv(k + epsilon * B * np.eye(B))

  expected = np.trace(factor(gaussian(rows, 1.0)) @ factor(gaussian(other, 1.0)))
  ours = [hsic.gaussian_kernel_less_one(products(z), z.shape[1], (1.0,)) for z in (rows, other)]
  np.testing.assert_allclose(hsic.nhsic(*ours, epsilon), expected, rtol=5e-3 if epsilon == 1e-5 else 1e-4)


def test_nhsic_of_linear_kernels_counts_their_common_dimensions(rows):
  """Uses an epsilon far below every eigenvalue, so that the factors are projections and the trace is a dimension."""
  shared = rows[:, :4]
  np.testing.assert_allclose(hsic.nhsic(products(rows), products(shared), 1e-4), 4, rtol=1e-2)


@pytest.mark.parametrize("size", [1.0, 30.0, 100.0, 1e3, 1e5])
@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("features", [3, 10, 100])
def test_nhsic_of_large_features_with_a_linear_kernel_matches_float64(size, offset, features):
  """Such Gram matrices have rounding errors far above epsilon; see `nhsic_factor`."""
  generator, batch = np.random.default_rng(0), 64
  labels = np.eye(7)[generator.integers(0, 7, batch)]
  rows = generator.normal(size=(batch, features)) + offset
  rows[:, :7] += labels[:, :features]
  h = np.eye(batch) - 1 / batch
  exact = [h @ (size * z) @ (size * z).T @ h for z in (rows, labels / size)]
  factors = [k @ np.linalg.inv(k + 1e-3 * batch * np.eye(batch)) for k in exact]
  expected = np.sum(factors[0] * factors[1])
  found = hsic.nhsic(hsic.inner_products(jnp.asarray(size * rows, jnp.float32)), jnp.asarray(labels @ labels.T))
  np.testing.assert_allclose(found, expected, rtol=0.02)
  gradient = jax.grad(lambda z: hsic.nhsic(hsic.inner_products(z), jnp.asarray(labels @ labels.T)))
  assert np.isfinite(gradient(jnp.asarray(size * rows, jnp.float32))).all()


def test_nhsic_with_linear_labels_is_the_fit_of_a_ridge_regression(rows):
  epsilon, labels = 1e-2, np.eye(3)[np.arange(B) % 3]
  h = centering(B)
  target = h @ labels
  fitted = h @ rows @ np.linalg.solve((h @ rows).T @ (h @ rows) + epsilon * B * np.eye(D), (h @ rows).T @ target)
  found = hsic.dependence(hsic.nhsic_factor(products(rows), epsilon), products(target))
  np.testing.assert_allclose(found, (fitted * target).sum(), rtol=1e-3)


def test_phsic_is_the_covariance_of_both_kernels_over_pairs(rows, other):
  k, l = cosine(rows), gaussian(other, 1.0)
  expected = np.cov(k.ravel(), l.ravel(), bias=True)[0, 1]
  found = hsic.phsic(hsic.cosine_kernel(products(rows)), hsic.gaussian_kernel_less_one(products(other), 3, (1.0,)))
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_phsic_of_centered_kernels_equals_hsic(rows, other):
  k, l = hsic.center(products(rows)), hsic.center(products(other))
  np.testing.assert_allclose(hsic.phsic(k, l) * B**2, hsic.hsic(k, l) * (B - 1) ** 2, rtol=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_invariant_to_the_order_of_examples(rows, other, measure):
  order = np.random.default_rng(3).permutation(B)
  one = measure(products(rows), products(other))
  two = measure(products(rows[order]), products(other[order]))
  np.testing.assert_allclose(one, two, rtol=1e-3)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_symmetric(rows, other, measure):
  np.testing.assert_allclose(
    measure(products(rows), products(other)), measure(products(other), products(rows)), rtol=1e-4
  )


def test_hsic_of_independent_variables_decreases_with_the_batch_size():
  """Checks that the bias is of order 1 / B: 16 times the batch gives about 1 / 16 of the estimate."""
  generator = np.random.default_rng(4)

  def mean_estimate(batch, draws):
    pairs = generator.normal(size=(draws, 2, batch, 3))
    kernel = lambda z: hsic.gaussian_kernel_less_one(jnp.asarray(z @ z.T, jnp.float32), 3, (1.0,))  # noqa: E731
    return np.mean([hsic.hsic(kernel(x), kernel(y)) for x, y in pairs])

  small, large = mean_estimate(16, 60), mean_estimate(256, 6)
  dependent = generator.normal(size=(256, 3))
  kernel = hsic.gaussian_kernel_less_one(products(dependent), 3, (1.0,))
  assert 10 < small / large < 25
  assert hsic.hsic(kernel, kernel) > 20 * large


def test_grouped_deviation_matches_its_definition():
  x = np.random.default_rng(5).normal(size=(6, 4, 5, 8))
  groups = x.reshape(6, 20, 2, 4)
  variance = groups.transpose(0, 2, 1, 3).reshape(6, 2, -1).var(axis=-1)
  for power in (0.5, 0.2):
    expected = variance**power - (variance**power).mean(axis=1, keepdims=True)
    found = hsic.grouped_deviation(jnp.asarray(x, jnp.float32), 2, power)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_grouped_deviation_depends_on_every_channel():
  x = jnp.asarray(np.random.default_rng(6).normal(size=(3, 2, 2, 7)), jnp.float32)
  sensitivity = jax.grad(lambda x: jnp.sum(hsic.grouped_deviation(x, 3) ** 2))(x)
  assert (jnp.abs(sensitivity).max(axis=(0, 1, 2)) > 0).all()
  assert hsic.grouped_deviation(x, 100).shape == (3, 7)


def test_label_products_compare_classes_and_balance_them():
  target = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 2]]
  plain = hsic.label_products(jnp.asarray(target))
  np.testing.assert_allclose(plain, target @ target.T)
  balanced = hsic.label_products(jnp.asarray(target), balanced=True)
  np.testing.assert_allclose(balanced, target @ np.diag([1 / 4, 1 / 2, 1]) @ target.T, rtol=1e-6)
  # After balancing, every class has the same weight in the trace, whatever its number of rows.
  np.testing.assert_allclose(np.trace(balanced[:4, :4]), np.trace(balanced[6:, 6:]), rtol=1e-6)


def apply_kernel(kernel, p, d):
  if kernel == "cosine":
    return hsic.cosine_kernel(p)
  if kernel == "linear":
    return p
  scale = hsic.median_squared_distance(p) if kernel == "gaussian, median" else d
  return hsic.gaussian_kernel_less_one(p, scale, (1.0,))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kernel", ["gaussian", "cosine", "linear"])
def test_gradients_match_finite_differences(rows, other, kernel, measure):
  def loss(z):
    return measure(apply_kernel(kernel, hsic.center(hsic.inner_products(z)), D), products(other))

  z = jnp.asarray(rows, jnp.float32)
  direction = jax.random.normal(jax.random.key(1), z.shape)
  step = 1e-2
  slope = (float(loss(z + step * direction)) - float(loss(z - step * direction))) / (2 * step)
  np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(z), direction), slope, rtol=2e-2, atol=1e-4)


DEGENERATE = ["dead layer", "constant rows", "one dead row", "two rows", "one class", "huge rows"]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kernel", ["gaussian", "gaussian, median", "cosine"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_losses_and_gradients_are_finite_for_degenerate_batches(rows, case, kernel, measure):
  target = np.eye(3, dtype=np.float32)[np.arange(B) % 3]
  z = np.array(rows, np.float32)
  if case == "dead layer":
    z[:] = 0
  elif case == "constant rows":
    z[:] = z[0]
  elif case == "one dead row":
    z[0] = 0
  elif case == "two rows":
    z, target = z[:2], target[:2]
  elif case == "huge rows":
    z *= 1e8
  else:
    target[:] = target[0]
  label = hsic.label_products(jnp.asarray(target), balanced=True)

  def loss(z):
    return measure(apply_kernel(kernel, hsic.center(hsic.inner_products(z)), z.shape[-1]), label)

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(z))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kernel", ["gaussian", "cosine", "linear"])
def test_float16_rows_that_overflow_give_finite_and_accurate_losses(rows, other, kernel):
  """Uses rows near the largest float16, with products far beyond it, and one infinite entry."""
  z = jnp.asarray(rows, jnp.float16) * jnp.float16(2e4)
  assert not np.isfinite(jnp.sum(z * z))

  def loss(z):
    return hsic.cka(apply_kernel(kernel, hsic.center(hsic.inner_products(z)), D), products(other))

  value, gradient = jax.value_and_grad(loss)(z.at[0, 0].set(jnp.inf))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  exact = loss(z.astype(jnp.float32))
  np.testing.assert_allclose(loss(z), exact, rtol=1e-3)


def test_float16_gradients_that_overflow_become_the_largest_number():
  z = jnp.asarray(np.eye(4, 3), jnp.float16) * jnp.float16(1e3)
  gradient = jax.grad(lambda z: 1e4 * hsic.hsic(hsic.inner_products(z), jnp.eye(4)))(z)
  assert np.isfinite(gradient).all()
  assert jnp.abs(gradient).max() == jnp.finfo(jnp.float16).max
