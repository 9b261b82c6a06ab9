import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.losses.cross_entropy import cross_entropy


def reference(logits, target):
  logits = np.asarray(logits, float)
  return -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)


def test_equals_float64(logits, target):
  found = cross_entropy(jnp.asarray(logits), jnp.asarray(target))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, reference(logits, target), rtol=1e-5)
  np.testing.assert_allclose(found, optax.softmax_cross_entropy(logits, target), rtol=1e-5)


def test_gradient_is_probability_less_target(logits, target):
  gradient = jax.grad(lambda z: cross_entropy(z, jnp.asarray(target)).sum())(jnp.asarray(logits))
  exact = np.exp(logits.astype(float))
  np.testing.assert_allclose(gradient, exact / exact.sum(1, keepdims=True) - target, atol=1e-6)


def test_extreme_logits_stay_finite():
  logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
  np.testing.assert_allclose(cross_entropy(logits, jnp.array([[1.0, 0], [1, 0]])), [0, 2e4])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_arithmetic_is_float32(logits, target, dtype):
  low = jnp.asarray(logits, dtype)
  found = cross_entropy(low, jnp.asarray(target))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, reference(low.astype(jnp.float32), target), rtol=1e-5)
