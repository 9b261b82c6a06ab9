import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.max_pooling import max_pool

CASES = [
  ((44, 44), (3, 3), (2, 2), ((1, 1), (1, 1))),
  ((7, 6), (3, 3), (2, 2), "SAME"),
  ((7, 8), (2, 2), (2, 2), "VALID"),
  ((6, 7), (3, 3), (1, 1), "SAME"),
  ((7, 7), (3, 2), (2, 3), ((0, 2), (1, 0))),
  ((8, 9), (2, 2), (3, 3), "VALID"),  # positions outside every window
  ((2, 2), (3, 3), (2, 2), "SAME"),
  ((17, 17), (17, 17), (1, 1), "VALID"),
]


def result_and_gradient(pool, window, strides, padding):
  def evaluate(x, cotangent):
    result, vjp = jax.vjp(lambda x: pool(x, window, strides, padding), x)
    return result, vjp(cotangent)[0]

  return jax.jit(evaluate)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "window", "strides", "padding"), CASES)
def test_result_and_gradient_equal_linen(size, window, strides, padding, dtype):
  generator = np.random.default_rng(0)
  x = jnp.asarray(generator.integers(-2, 3, (2, *size, 3)), dtype)  # with ties, and windows of negative numbers only
  shape = jax.eval_shape(lambda x: nn.max_pool(x, window, strides, padding), x).shape
  arguments = x, jnp.asarray(generator.integers(-8, 9, shape), dtype)  # integers: sums are exact in any order
  found = result_and_gradient(max_pool, window, strides, padding)(*arguments)
  expected = result_and_gradient(nn.max_pool, window, strides, padding)(*arguments)
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def test_vmap_over_networks():
  generator = np.random.default_rng(1)
  x = jnp.asarray(generator.normal(size=(3, 2, 7, 7, 4)), jnp.float32)
  cotangent = jnp.asarray(generator.normal(size=(3, 2, 4, 4, 4)), jnp.float32)
  evaluate = result_and_gradient(max_pool, (3, 3), (2, 2), "SAME")
  together = jax.jit(jax.vmap(evaluate))(x, cotangent)
  for r in range(3):
    for one, other in zip(together, evaluate(x[r], cotangent[r]), strict=True):
      np.testing.assert_allclose(one[r], other, rtol=1e-6, atol=1e-6)


def test_gradient_uses_no_select_and_scatter_on_a_cpu():
  gradient = jax.grad(lambda x: max_pool(x, (3, 3), (2, 2), "SAME").sum())
  text = jax.jit(gradient).lower(jnp.zeros((2, 7, 7, 3))).compile().as_text()
  assert "select-and-scatter" not in text


def test_gradient_uses_xla_on_other_devices(monkeypatch):
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
  x = jnp.asarray(np.random.default_rng(2).integers(-2, 3, (2, 7, 6, 3)), jnp.float32)
  found, expected = (
    jax.grad(lambda x, pool=pool: (pool(x, (3, 3), (2, 2), "SAME") ** 2).sum())(x) for pool in (max_pool, nn.max_pool)
  )
  np.testing.assert_array_equal(found, expected)
