"""Tests that inlined programs have the same results, without calls and replaced primitives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.apps.exports.inlining import evaluate, uses_bfloat16

FEATURES = np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype(np.float32)


def max_pool(x, window, strides, padding, dilation=(1, 1)):
  full_padding = ((0, 0), *padding, (0, 0))
  ones = (1, 1, 1, 1)
  return lax.reduce_window_max_p.bind(
    x,
    window_dimensions=(1, *window, 1),
    window_strides=(1, *strides, 1),
    padding=full_padding,
    base_dilation=ones,
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
  "reduce_window_max": lambda x: max_pool(x, (3, 3), (2, 2), ((1, 1), (0, 1))),
}


def primitives(program):
  return {equation.primitive.name for equation in program.jaxpr.eqns}


@pytest.mark.parametrize("name", PROGRAMS)
def test_replaces_the_primitive_and_keeps_the_result(name):
  program = jax.make_jaxpr(PROGRAMS[name])(FEATURES)
  assert name in primitives(program)
  flat = jax.make_jaxpr(lambda x: evaluate(program, x))(FEATURES)
  assert name not in primitives(flat) and "platform_index" not in primitives(flat)
  np.testing.assert_allclose(evaluate(flat, FEATURES)[0], PROGRAMS[name](FEATURES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
@pytest.mark.parametrize(
  "window, strides", [((1, 1), (1, 1)), ((1, 1), (2, 3)), ((2, 3), (1, 1)), ((3, 2), (3, 2)), ((1, 3), (1, 2))]
)
def test_max_pooling_with_and_without_padding(window, strides, dilation):
  def program(x):
    return max_pool(-abs(x) - 1, window, strides, ((1, 0), (0, 2)), dilation)  # padding with zeros would give zeros

  flat = evaluate(jax.make_jaxpr(program)(FEATURES), FEATURES)[0]
  np.testing.assert_array_equal(flat, program(FEATURES))


@pytest.mark.parametrize("rows", [(-1, 2, 0), (2, -1, 0), (0, 0, 1)])
def test_negative_and_interior_padding_are_unchanged(rows):
  def program(x):
    return lax.pad(x, np.float32(0), [(0, 0, 0), rows, (0, 0, 0), (0, 0, 0)])

  traced = jax.make_jaxpr(program)(FEATURES)
  assert "pad" in primitives(jax.make_jaxpr(lambda x: evaluate(traced, x))(FEATURES))
  np.testing.assert_array_equal(evaluate(traced, FEATURES)[0], program(FEATURES))


def test_uses_the_default_branch_on_every_device():
  def program(x):
    return lax.platform_dependent(x, cpu=lambda x: x + 1, default=lambda x: x - 1)

  np.testing.assert_allclose(evaluate(jax.make_jaxpr(program)(FEATURES), FEATURES)[0], FEATURES - 1)


def test_constants_are_computed_at_trace_time():
  weights = jnp.asarray(FEATURES[0])
  program = jax.make_jaxpr(lambda x: x + jnp.sin(weights)[None])(FEATURES)
  assert "sin" in primitives(program)
  assert "sin" not in primitives(jax.make_jaxpr(lambda x: evaluate(program, x))(FEATURES))


def test_bfloat16_becomes_float32():
  weights = jnp.asarray(FEATURES[0, 0], jnp.bfloat16)  # [6, 3]

  def program(x):
    low_precision = jax.jit(lambda x: x * jnp.bfloat16(3))(x.astype(jnp.bfloat16))
    product = lax.dot_general(low_precision, weights, (((3,), (1,)), ((), ())), preferred_element_type=jnp.bfloat16)
    return product.astype(jnp.float32)

  traced = jax.make_jaxpr(program)(FEATURES)
  assert uses_bfloat16(traced)
  flat = jax.make_jaxpr(lambda x: evaluate(traced, x))(FEATURES)
  assert "bf16" not in str(flat) and not uses_bfloat16(flat)
  exact = 3 * FEATURES @ np.asarray(weights, np.float32).T
  np.testing.assert_allclose(evaluate(traced, FEATURES)[0], exact, rtol=1e-5, atol=1e-5)
  assert np.abs(np.asarray(program(FEATURES)) - exact).max() > 1e-3


def test_uses_bfloat16_searches_nested_calls():
  assert uses_bfloat16(jax.make_jaxpr(jax.jit(lambda x: 2 * x.astype(jnp.bfloat16).astype(jnp.float32)))(FEATURES))
  assert not uses_bfloat16(jax.make_jaxpr(jax.jit(lambda x: 2 * x))(FEATURES))
