"""HSIC against float64 NumPy renderings of the definitions, against identities, and by finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.losses import hsic

B, D = 24, 10


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


def test_inner_products_are_zzt(rows):
  np.testing.assert_allclose(hsic.inner_products(jnp.asarray(rows, jnp.float32)), rows @ rows.T, rtol=1e-5, atol=1e-5)


def test_inner_products_accumulate_bfloat16_rows_in_float32(rows):
  low = jnp.asarray(rows, jnp.bfloat16)
  exact = np.asarray(low, np.float64)
  found = hsic.inner_products(low)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, exact @ exact.T, rtol=1e-5, atol=1e-5)


def test_inner_products_gradient_equals_plain_differentiation(rows):
  z = jnp.asarray(rows, jnp.float32)
  weight = jax.random.normal(jax.random.key(0), (B, B))  # deliberately not symmetric
  ours = jax.grad(lambda z: jnp.sum(weight * jnp.sin(hsic.inner_products(z))))(z)
  plain = jax.grad(lambda z: jnp.sum(weight * jnp.sin(z @ z.T)))(z)
  np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("devices", [2, 4])
def test_inner_products_over_devices_equal_one_device(rows, devices):
  z = jnp.asarray(rows, jnp.float32)
  weight = jax.random.normal(jax.random.key(0), (B, B))

  def loss(part, axis_name=None):
    return jnp.sum(weight * jnp.sin(hsic.inner_products(part, axis_name)))

  spread = jax.pmap(
    jax.value_and_grad(functools.partial(loss, axis_name="d")), axis_name="d", devices=jax.devices()[:devices]
  )
  value, gradient = spread(z.reshape(devices, B // devices, D))
  want_value, want_gradient = jax.value_and_grad(loss)(z)
  np.testing.assert_allclose(value, np.full(devices, want_value), atol=1e-4)
  np.testing.assert_allclose(gradient.reshape(B, D), want_gradient, rtol=1e-4, atol=1e-5)


def test_center_is_hkh(rows):
  h = centering(B)
  np.testing.assert_allclose(hsic.center(products(rows)), h @ (rows @ rows.T) @ h, rtol=1e-4, atol=1e-4)


def test_centered_products_are_those_of_centered_rows(rows):
  centered = rows - rows.mean(axis=0)
  np.testing.assert_allclose(hsic.center(products(rows)), centered @ centered.T, rtol=1e-4, atol=1e-4)


def test_gaussian_kernel_is_the_definition_and_does_not_move_with_the_mean(rows):
  want = gaussian(rows, 5.0)
  np.testing.assert_allclose(1 + hsic.gaussian_kernel_less_one(products(rows), D), want, rtol=1e-5)
  np.testing.assert_allclose(1 + hsic.gaussian_kernel_less_one(hsic.center(products(rows + 3)), D), want, rtol=1e-4)


def test_cosine_kernel_is_the_definition(rows):
  np.testing.assert_allclose(hsic.cosine_kernel(products(rows)), cosine(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 5.0])
def test_trace_hsic_matches_float64(rows, other, sigma):
  k, l = gaussian(rows, sigma), gaussian(other, sigma)
  found = hsic.hsic(
    hsic.center(hsic.gaussian_kernel_less_one(products(rows), D, sigma)),
    hsic.gaussian_kernel_less_one(products(other), 3, sigma),
  )
  np.testing.assert_allclose(found, trace_hsic(k, l), rtol=1e-4)


def test_linear_hsic_with_itself_is_the_squared_norm_of_the_covariance(rows):
  covariance = np.cov(rows, rowvar=False)
  found = hsic.hsic(hsic.center(products(rows)), products(rows))
  np.testing.assert_allclose(found, (covariance**2).sum(), rtol=1e-4)


def test_cka_matches_float64_and_is_one_with_itself(rows, other):
  h = centering(B)
  k, l = h @ cosine(rows) @ h, h @ cosine(other) @ h
  want = (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)
  ours = [hsic.center(hsic.cosine_kernel(products(z))) for z in (rows, other)]
  np.testing.assert_allclose(hsic.cka(*ours), want, rtol=1e-4)
  np.testing.assert_allclose(hsic.cka(ours[0], ours[0]), 1.0, rtol=1e-5)


def test_cka_does_not_change_under_scaling_and_rotation(rows, other):
  rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))
  target = hsic.center(products(other))
  plain = hsic.cka(hsic.center(products(rows)), target)
  np.testing.assert_allclose(hsic.cka(hsic.center(products(7 * rows @ rotation)), target), plain, rtol=1e-4)


def test_measures_do_not_change_when_examples_are_reordered(rows, other):
  order = np.random.default_rng(3).permutation(B)
  for measure in (hsic.hsic, hsic.cka):
    one = measure(hsic.center(products(rows)), hsic.center(products(other)))
    two = measure(hsic.center(products(rows[order])), hsic.center(products(other[order])))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_label_products_tell_classes_apart_and_balance_them():
  target = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 2]]
  plain = hsic.label_products(jnp.asarray(target))
  np.testing.assert_allclose(plain, target @ target.T)
  balanced = hsic.label_products(jnp.asarray(target), balanced=True)
  np.testing.assert_allclose(balanced, target @ np.diag([1 / 4, 1 / 2, 1]) @ target.T, rtol=1e-6)
  # Every class then carries the same weight in the trace, however many rows it has.
  np.testing.assert_allclose(np.trace(balanced[:4, :4]), np.trace(balanced[6:, 6:]), rtol=1e-6)


@pytest.mark.parametrize("measure", [hsic.hsic, hsic.cka])
@pytest.mark.parametrize("kernel", ["gaussian", "cosine", "linear"])
def test_gradients_agree_with_finite_differences(rows, other, kernel, measure):
  target = hsic.center(products(other))

  def loss(z):
    p = hsic.center(hsic.inner_products(z))
    grams = {
      "gaussian": lambda: hsic.gaussian_kernel_less_one(p, D, 1.0),
      "cosine": lambda: hsic.cosine_kernel(p),
      "linear": lambda: p,
    }
    return measure(hsic.center(grams[kernel]()), target)

  z = jnp.asarray(rows, jnp.float32)
  direction = jax.random.normal(jax.random.key(1), z.shape)
  step = 1e-2
  slope = (float(loss(z + step * direction)) - float(loss(z - step * direction))) / (2 * step)
  np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(z), direction), slope, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("measure", [hsic.hsic, hsic.cka])
@pytest.mark.parametrize("case", ["dead layer", "constant rows", "one dead row", "two rows", "one class"])
def test_degenerate_batches_give_finite_losses_and_gradients(rows, case, measure):
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
  else:
    target[:] = target[0]
  label = hsic.center(hsic.label_products(jnp.asarray(target), balanced=True))

  def loss(z):
    p = hsic.center(hsic.inner_products(z))
    return measure(hsic.center(hsic.cosine_kernel(p)), label) + measure(
      hsic.center(hsic.gaussian_kernel_less_one(p, z.shape[-1])), label
    )

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(z))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
