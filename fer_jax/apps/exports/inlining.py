"""Rewrites a jaxpr for the ONNX converter: inlines calls and replaces primitives that it does not support."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

# Function (parameters, *inputs) -> outputs of a primitive.
_Rule = Callable[..., Sequence[Any]]

# Primitives that call a nested jaxpr, and the name of the parameter with that jaxpr.
_CALLS = {
  "jit": "jaxpr",
  "closed_call": "call_jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "custom_vmap_call": "call",
}


def evaluate(program: core.ClosedJaxpr, *inputs: jax.Array) -> list[jax.Array]:
  """Evaluates a jaxpr primitive by primitive; tracing this function yields a jaxpr without nested calls.

  Some primitives are replaced:
    - `lax.platform_dependent`: its default branch.
    - pad: concatenations, because jax2onnx 0.17 cannot convert pad with a symbolic batch size.
    - reduce_window_max: maxima of slices, because jax2onnx 0.17 converts it to a pooling over all four axes (batch and
      channels included), and ONNX runtimes pool over at most three.
    - bfloat16: computed in float32, because ONNX runtimes have no bfloat16 convolution.

  Args:
    program: Closed jaxpr, as returned by `jax.make_jaxpr`.
    inputs: Arrays or tracers with the shapes of the program's inputs; symbolic shapes are allowed.

  Returns:
    Outputs of the program.
  """
  # The environment: value of every variable computed so far.
  values: dict[core.Var, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
  values.update(zip(program.jaxpr.invars, inputs, strict=True))

  def read(atom: core.Var | core.Literal) -> Any:
    value = atom.val if isinstance(atom, core.Literal) else values[atom]
    if getattr(value, "dtype", None) != jnp.bfloat16:
      return value
    # A bfloat16 constant is converted now, not by an operation in the traced program.
    with jax.ensure_compile_time_eval():
      return jnp.asarray(value, jnp.float32)

  for equation in program.jaxpr.eqns:
    # An equation of constants is evaluated at trace time, so that only its result is part of the program.
    operands = [read(atom) for atom in equation.invars]
    constant = not any(isinstance(value, jax.core.Tracer) for value in operands) and _has_static_shapes(equation)
    with jax.ensure_compile_time_eval() if constant else contextlib.nullcontext():
      outputs = _compute(equation, operands)
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in program.jaxpr.outvars]


def _has_static_shapes(equation: core.JaxprEqn) -> bool:
  """Returns whether the shapes of all outputs are static."""
  return all(isinstance(size, int) for variable in equation.outvars for size in variable.aval.shape)  # type: ignore[attr-defined]


def uses_bfloat16(program: core.ClosedJaxpr) -> bool:
  """Returns whether any intermediate result of a jaxpr, nested ones included, is bfloat16."""
  for equation in program.jaxpr.eqns:
    if any(getattr(variable.aval, "dtype", None) == jnp.bfloat16 for variable in equation.outvars):
      return True
    if any(isinstance(value, core.ClosedJaxpr) and uses_bfloat16(value) for value in equation.params.values()):
      return True
  return False


def _compute(equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
  primitive = equation.primitive
  # Parameters such as new_dtype and preferred_element_type: bfloat16 -> float32.
  params: dict[str, Any] = {
    name: jnp.dtype(jnp.float32) if _is_bfloat16(value) else value for name, value in equation.params.items()
  }
  if primitive.name in _CALLS:
    return evaluate(params[_CALLS[primitive.name]], *inputs)
  rule = _RULES.get(primitive.name)
  outputs = rule(params, *inputs) if rule else None
  if outputs is not None:
    return outputs
  result = primitive.bind(*inputs, **params)
  return result if primitive.multiple_results else [result]


def _is_bfloat16(value: Any) -> bool:
  return isinstance(value, np.dtype) and value == jnp.bfloat16


def _platform_index(params: dict[str, Any]) -> Sequence[Any]:
  """Returns an arbitrary index: `_cond` ignores it."""
  return [np.int32(0)]


def _cond(params: dict[str, Any], index: Any, *inputs: Any) -> Sequence[Any] | None:
  # `branches_platforms` exists only for lax.platform_dependent; its entry None is the default branch.
  platforms = params.get("branches_platforms")
  if platforms is None or None not in platforms:
    return None
  return evaluate(params["branches"][platforms.index(None)], *inputs)


def _pad(params: dict[str, Any], x: jax.Array, value: jax.Array) -> Sequence[Any] | None:
  # Negative (cropping) and interior padding are not replaced.
  if any(low < 0 or high < 0 or interior for low, high, interior in params["padding_config"]):
    return None
  for axis, (low, high, _) in enumerate(params["padding_config"]):
    x = _pad_axis(x, axis, low, high, value)
  return [x]


def _max_pool(params: dict[str, Any], x: jax.Array) -> Sequence[Any] | None:
  if any(dilation != 1 for dilation in params["base_dilation"]):
    return None
  names = ("window_dimensions", "window_strides", "padding", "window_dilation")
  for axis, (window, stride, (low, high), dilation) in enumerate(zip(*(params[name] for name in names), strict=True)):
    if window == stride == 1 and not (low or high):
      continue
    x = _pad_axis(x, axis, low, high, lax.full((), -float("inf"), x.dtype))
    # The maximum over a window is separable: one axis at a time, as the maximum of `window` shifted, strided slices.
    starts = x.shape[axis] - (window - 1) * dilation  # number of start positions
    slices = [lax.slice_in_dim(x, i * dilation, i * dilation + starts, stride, axis) for i in range(window)]
    x = functools.reduce(lax.max, slices)
  return [x]


def _pad_axis(x: jax.Array, axis: int, low: int, high: int, value: jax.Array) -> jax.Array:
  """Pads an axis with `low` copies of a value before it and `high` after it."""

  def fill(length: int) -> list[jax.Array]:
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    return [lax.broadcast_in_dim(value, shape, ())] if length else []

  return lax.concatenate([*fill(low), x, *fill(high)], axis) if low or high else x


# Rules by name of the primitive; a rule that returns None leaves the primitive unchanged.
_RULES: dict[str, Callable[..., Sequence[Any] | None]] = {
  "platform_index": _platform_index,
  "cond": _cond,
  "pad": _pad,
  "reduce_window_max": _max_pool,
}
