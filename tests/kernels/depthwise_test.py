import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.convolution import convolve
from fer_jax.kernels.depthwise import depthwise
from fer_jax.kernels.geometry import Axis

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = 5


def random_array(*shape, dtype=jnp.float32, seed=0):
  return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def lax_convolve(maps, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    maps, kernel, strides, padding, dimension_numbers=LAYOUT, feature_group_count=maps.shape[-1]
  )


def ours(maps, kernel, strides, padding):
  return convolve(maps, kernel, strides, padding, feature_group_count=maps.shape[-1])


def value_and_gradients(convolution, strides, padding):
  """Returns a function (maps, kernel, cotangent) -> (result, gradient of the maps, gradient of the kernel)."""

  def evaluate(maps, kernel, cotangent):
    result, vjp = jax.vjp(lambda maps, kernel: convolution(maps, kernel, strides, padding), maps, kernel)
    return result, *vjp(cotangent)

  return jax.jit(evaluate)


def assert_close(found, expected, tolerance=2e-6):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    largest = np.abs(np.asarray(b, float)).max()
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=tolerance * largest)


CASES = [
  ((6, 5), (3, 3), (1, 1), "SAME"),
  ((6, 5), (3, 3), (2, 2), "SAME"),
  ((7, 8), (5, 5), (2, 2), ((2, 2), (2, 2))),
  ((7, 8), (3, 3), (2, 3), "VALID"),
  ((6, 5), (3, 2), (2, 2), ((0, 2), (3, 1))),
  ((8, 8), (3, 3), (1, 1), ((-1, 2), (0, -1))),
  ((6, 6), (2, 2), (3, 3), "VALID"),  # positions outside every window
  ((2, 2), (3, 3), (1, 1), "SAME"),
  ((6, 5), (1, 1), (1, 1), "SAME"),
]


@pytest.mark.parametrize(("size", "kernel_size", "strides", "padding"), CASES)
def test_values_and_gradients_equal_lax(size, kernel_size, strides, padding):
  maps, kernel = random_array(2, *size, CHANNELS), random_array(*kernel_size, 1, CHANNELS, seed=1)
  shape = jax.eval_shape(lambda x, k: lax_convolve(x, k, strides, padding), maps, kernel).shape
  arguments = (maps, kernel, random_array(*shape, seed=2))
  assert_close(
    value_and_gradients(ours, strides, padding)(*arguments),
    value_and_gradients(lax_convolve, strides, padding)(*arguments),
  )


@pytest.mark.parametrize("name", ["result", "maps", "kernel"])
def test_both_implementations_agree_for_each_array(name, monkeypatch):
  """Compares the implementation for CPUs with the one for other devices, which is run here on the CPU."""
  axes = (Axis(7, 3, 2, (1, 1), 4), Axis(6, 3, 1, (1, 0), 5))
  arrays = {
    "maps": random_array(2, 7, 6, CHANNELS),
    "kernel": random_array(3, 3, 1, CHANNELS, seed=1),
    "result": random_array(2, 4, 5, CHANNELS, seed=2),
  }
  others = [array for other, array in arrays.items() if other != name]
  found = jax.jit(lambda a, b: depthwise(axes, name, a, b))(*others)
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda a, b, *, cpu, default: default(a, b))
  assert_close(found, depthwise(axes, name, *others))


def test_bfloat16_is_accumulated_in_float32():
  maps, kernel = jnp.full((1, 16, 16, 1), 1 + 2**-7, jnp.bfloat16), jnp.ones((16, 16, 1, 1), jnp.bfloat16)
  found = ours(maps, kernel, (1, 1), "VALID")
  assert found.dtype == jnp.bfloat16
  assert float(found[0, 0, 0, 0]) == 258  # a sum in bfloat16 would stop at 256
  gradient = jax.grad(lambda kernel: ours(maps, kernel, (1, 1), "SAME").astype(jnp.float32).sum())(kernel)
  assert float(gradient.max()) == 258


def test_second_derivatives():
  maps, kernel = random_array(2, 5, 4, CHANNELS), random_array(3, 3, 1, CHANNELS, seed=1)

  def second(convolution):
    def loss(maps, kernel):
      return jnp.sum(jnp.sin(convolution(maps, kernel, (1, 1), "SAME")))

    def squared_gradient(maps, kernel):
      return sum(jnp.sum(g**2) for g in jax.grad(loss, argnums=(0, 1))(maps, kernel))

    return jax.jit(jax.grad(squared_gradient, argnums=(0, 1)))(maps, kernel)

  assert_close(second(ours), second(lax_convolve), tolerance=1e-5)


def test_vmap_over_networks():
  maps, kernel = random_array(3, 2, 5, 4, CHANNELS), random_array(3, 3, 3, 1, CHANNELS, seed=1)
  cotangent = random_array(3, 2, 5, 4, CHANNELS, seed=2)
  evaluate = value_and_gradients(ours, (1, 1), "SAME")
  one_by_one = [evaluate(*each) for each in zip(maps, kernel, cotangent, strict=True)]
  expected = jax.tree.map(lambda *x: jnp.stack(x), *one_by_one)
  assert_close(jax.jit(jax.vmap(evaluate))(maps, kernel, cotangent), expected)


def test_uses_no_convolution_on_a_cpu():
  def gradients(maps, kernel):
    return jax.grad(lambda *x: ours(*x, (1, 1), "SAME").sum(), argnums=(0, 1))(maps, kernel)

  text = jax.jit(gradients).lower(random_array(2, 5, 4, CHANNELS), random_array(3, 3, 1, CHANNELS)).compile().as_text()
  assert "convolution(" not in text
