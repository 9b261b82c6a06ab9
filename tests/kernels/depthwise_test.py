import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.convolution import convolve
from fer_jax.kernels.depthwise import depthwise
from fer_jax.kernels.geometry import Axis

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = 5


def drawn(*shape, dtype=jnp.float32, seed=0):
  return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def by_lax(maps, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    maps, kernel, strides, padding, dimension_numbers=LAYOUT, feature_group_count=maps.shape[-1]
  )


def ours(maps, kernel, strides, padding):
  return convolve(maps, kernel, strides, padding, feature_group_count=maps.shape[-1])


def value_and_gradients(convolution, strides, padding):
  """Returns (maps, kernel, cotangent) -> result, gradient with respect to the maps, to the kernel."""

  def evaluate(maps, kernel, cotangent):
    result, pull_back = jax.vjp(lambda maps, kernel: convolution(maps, kernel, strides, padding), maps, kernel)
    return result, *pull_back(cotangent)

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
  ((6, 6), (2, 2), (3, 3), "VALID"),  # places that no window reads
  ((2, 2), (3, 3), (1, 1), "SAME"),
  ((6, 5), (1, 1), (1, 1), "SAME"),
]


@pytest.mark.parametrize(("size", "kernel_size", "strides", "padding"), CASES)
def test_values_and_gradients_are_those_of_lax(size, kernel_size, strides, padding):
  maps, kernel = drawn(2, *size, CHANNELS), drawn(*kernel_size, 1, CHANNELS, seed=1)
  shape = jax.eval_shape(lambda x, k: by_lax(x, k, strides, padding), maps, kernel).shape
  arguments = (maps, kernel, drawn(*shape, seed=2))
  assert_close(
    value_and_gradients(ours, strides, padding)(*arguments), value_and_gradients(by_lax, strides, padding)(*arguments)
  )


@pytest.mark.parametrize("name", ["result", "maps", "kernel"])
def test_both_ways_give_each_of_the_three_arrays(name, monkeypatch):
  """On a CPU only one of the ways is run; here the other one is, in its place."""
  axes = (Axis(7, 3, 2, (1, 1), 4), Axis(6, 3, 1, (1, 0), 5))
  arrays = {
    "maps": drawn(2, 7, 6, CHANNELS),
    "kernel": drawn(3, 3, 1, CHANNELS, seed=1),
    "result": drawn(2, 4, 5, CHANNELS, seed=2),
  }
  others = [array for other, array in arrays.items() if other != name]
  found = jax.jit(lambda a, b: depthwise(axes, name, a, b))(*others)
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda a, b, *, cpu, default: default(a, b))
  assert_close(found, depthwise(axes, name, *others))


def test_sixteen_bits_are_added_up_in_thirty_two():
  maps, kernel = jnp.full((1, 16, 16, 1), 1 + 2**-7, jnp.bfloat16), jnp.ones((16, 16, 1, 1), jnp.bfloat16)
  found = ours(maps, kernel, (1, 1), "VALID")
  assert found.dtype == jnp.bfloat16
  assert float(found[0, 0, 0, 0]) == 258  # added up in 16 bits it would stop at 256
  gradient = jax.grad(lambda kernel: ours(maps, kernel, (1, 1), "SAME").astype(jnp.float32).sum())(kernel)
  assert float(gradient.max()) == 258


def test_gradients_of_gradients():
  maps, kernel = drawn(2, 5, 4, CHANNELS), drawn(3, 3, 1, CHANNELS, seed=1)

  def second(convolution):
    def loss(maps, kernel):
      return jnp.sum(jnp.sin(convolution(maps, kernel, (1, 1), "SAME")))

    def steepness(maps, kernel):
      return sum(jnp.sum(g**2) for g in jax.grad(loss, argnums=(0, 1))(maps, kernel))

    return jax.jit(jax.grad(steepness, argnums=(0, 1)))(maps, kernel)

  assert_close(second(ours), second(by_lax), tolerance=1e-5)


def test_networks_side_by_side():
  maps, kernel = drawn(3, 2, 5, 4, CHANNELS), drawn(3, 3, 3, 1, CHANNELS, seed=1)
  cotangent = drawn(3, 2, 5, 4, CHANNELS, seed=2)
  evaluate = value_and_gradients(ours, (1, 1), "SAME")
  one_by_one = [evaluate(*each) for each in zip(maps, kernel, cotangent, strict=True)]
  expected = jax.tree.map(lambda *x: jnp.stack(x), *one_by_one)
  assert_close(jax.jit(jax.vmap(evaluate))(maps, kernel, cotangent), expected)


def test_nothing_is_convolved_on_a_cpu():
  def gradients(maps, kernel):
    return jax.grad(lambda *x: ours(*x, (1, 1), "SAME").sum(), argnums=(0, 1))(maps, kernel)

  text = jax.jit(gradients).lower(drawn(2, 5, 4, CHANNELS), drawn(3, 3, 1, CHANNELS)).compile().as_text()
  assert "convolution(" not in text
