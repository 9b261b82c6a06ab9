"""Programs without calls: the same numbers, and none of the operations that are to be written as others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.apps.exports.inlining import evaluate, is_narrow

MAPS = np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype(np.float32)


def largest(x, window, strides, padding, dilation=(1, 1)):
  around = ((0, 0), *padding, (0, 0))
  one = (1, 1, 1, 1)
  return lax.reduce_window_max_p.bind(
    x,
    window_dimensions=(1, *window, 1),
    window_strides=(1, *strides, 1),
    padding=around,
    base_dilation=one,
    window_dilation=(1, *dilation, 1),
  )


@jax.custom_jvp
def doubled(x):
  return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@jax.custom_vjp
def halved(x):
  return 0.5 * x


halved.defvjp(lambda x: (halved(x), None), lambda _, cotangent: (0.5 * cotangent,))


@jax.custom_batching.custom_vmap
def rooted(x):
  return jnp.sqrt(jnp.abs(x))


rooted.def_vmap(lambda size, mapped, x: (rooted(x), True))


PROGRAMS = {
  "jit": jax.jit(lambda x: jax.jit(jnp.tanh)(x) + 1),
  "custom_jvp_call": lambda x: doubled(x) - 1,
  "custom_vjp_call": lambda x: halved(x) - 1,
  "custom_vmap_call": lambda x: rooted(x) - 1,
  "cond": lambda x: lax.platform_dependent(x, cpu=lambda x: x + 0 * x, default=lambda x: x * 1),
  "pad": lambda x: lax.pad(x, np.float32(0.5), [(0, 0, 0), (2, 0, 0), (1, 3, 0), (0, 0, 0)]),
  "reduce_window_max": lambda x: largest(x, (3, 3), (2, 2), ((1, 1), (0, 1))),
}


def names(program):
  return {equation.primitive.name for equation in program.jaxpr.eqns}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_converter_does_not_know_is_gone_and_the_result_remains(name):
  program = jax.make_jaxpr(PROGRAMS[name])(MAPS)
  assert name in names(program)
  flat = jax.make_jaxpr(lambda x: evaluate(program, x))(MAPS)
  assert name not in names(flat) and "platform_index" not in names(flat)
  np.testing.assert_allclose(evaluate(flat, MAPS)[0], PROGRAMS[name](MAPS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
@pytest.mark.parametrize(
  "window, strides", [((1, 1), (1, 1)), ((1, 1), (2, 3)), ((2, 3), (1, 1)), ((3, 2), (3, 2)), ((1, 3), (1, 2))]
)
def test_the_largest_of_windows_with_and_without_a_border(window, strides, dilation):
  def program(x):
    return largest(-abs(x) - 1, window, strides, ((1, 0), (0, 2)), dilation)  # a border of zeros would win

  flat = evaluate(jax.make_jaxpr(program)(MAPS), MAPS)[0]
  np.testing.assert_array_equal(flat, program(MAPS))


@pytest.mark.parametrize("rows", [(-1, 2, 0), (2, -1, 0), (0, 0, 1)])
def test_padding_that_crops_or_parts_stays_as_it_is(rows):
  def program(x):
    return lax.pad(x, np.float32(0), [(0, 0, 0), rows, (0, 0, 0), (0, 0, 0)])

  traced = jax.make_jaxpr(program)(MAPS)
  assert "pad" in names(jax.make_jaxpr(lambda x: evaluate(traced, x))(MAPS))
  np.testing.assert_array_equal(evaluate(traced, MAPS)[0], program(MAPS))


def test_the_default_is_taken_whatever_the_device():
  def program(x):
    return lax.platform_dependent(x, cpu=lambda x: x + 1, default=lambda x: x - 1)

  np.testing.assert_allclose(evaluate(jax.make_jaxpr(program)(MAPS), MAPS)[0], MAPS - 1)


def test_what_depends_on_no_input_is_computed_at_once():
  weights = jnp.asarray(MAPS[0])
  program = jax.make_jaxpr(lambda x: x + jnp.sin(weights)[None])(MAPS)
  assert "sin" in names(program)
  assert "sin" not in names(jax.make_jaxpr(lambda x: evaluate(program, x))(MAPS))


def test_bfloat16_becomes_float32():
  weights = jnp.asarray(MAPS[0, 0], jnp.bfloat16)  # [6, 3]

  def program(x):
    narrow = jax.jit(lambda x: x * jnp.bfloat16(3))(x.astype(jnp.bfloat16))
    product = lax.dot_general(narrow, weights, (((3,), (1,)), ((), ())), preferred_element_type=jnp.bfloat16)
    return product.astype(jnp.float32)

  traced = jax.make_jaxpr(program)(MAPS)
  assert is_narrow(traced)
  flat = jax.make_jaxpr(lambda x: evaluate(traced, x))(MAPS)
  assert "bf16" not in str(flat) and not is_narrow(flat)
  exact = 3 * MAPS @ np.asarray(weights, np.float32).T
  np.testing.assert_allclose(evaluate(traced, MAPS)[0], exact, rtol=1e-5, atol=1e-5)
  assert np.abs(np.asarray(program(MAPS)) - exact).max() > 1e-3


def test_bfloat16_is_seen_in_a_call():
  assert is_narrow(jax.make_jaxpr(jax.jit(lambda x: 2 * x.astype(jnp.bfloat16).astype(jnp.float32)))(MAPS))
  assert not is_narrow(jax.make_jaxpr(jax.jit(lambda x: 2 * x))(MAPS))
