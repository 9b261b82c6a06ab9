"""A traced program in the primitives that a converter knows: calls inlined, some operations written as others."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

# What a primitive computes, given its parameters and its inputs.
_Rule = Callable[..., Sequence[Any]]

# Calls of a program inside the program, and the parameter that holds it.
_CALLS = {
  "jit": "jaxpr",
  "closed_call": "call_jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "custom_vmap_call": "call",
}


def evaluate(program: core.ClosedJaxpr, *inputs: jax.Array) -> list[jax.Array]:
  """Computes a traced program, one primitive after another, so that tracing it gives a program without calls.

  Of `lax.platform_dependent` the default is taken. Padding is a concatenation and the largest of each window a maximum
  of slices: jax2onnx 0.17 fails at the first where the batch is symbolic, and of the second makes a pooling over four
  axes, batch and channels included, where runtimes have three at most. What is bfloat16 is computed in float32:
  runtimes convolve nothing else.

  Args:
    program: what `jax.make_jaxpr` returns.
    inputs: arrays or tracers of its inputs' shapes; symbolic ones too.

  Returns:
    its outputs.
  """
  values: dict[core.Var, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
  values.update(zip(program.jaxpr.invars, inputs, strict=True))

  def read(atom: core.Var | core.Literal) -> Any:
    value = atom.val if isinstance(atom, core.Literal) else values[atom]
    if getattr(value, "dtype", None) != jnp.bfloat16:
      return value
    with jax.ensure_compile_time_eval():
      return jnp.asarray(value, jnp.float32)

  for equation in program.jaxpr.eqns:
    given = [read(atom) for atom in equation.invars]
    constant = not any(isinstance(value, jax.core.Tracer) for value in given) and _is_fixed(equation)
    with jax.ensure_compile_time_eval() if constant else contextlib.nullcontext():
      outputs = _compute(equation, given)
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in program.jaxpr.outvars]


def _is_fixed(equation: core.JaxprEqn) -> bool:
  """Whether all outputs' shapes are numbers."""
  return all(isinstance(size, int) for variable in equation.outvars for size in variable.aval.shape)  # type: ignore[attr-defined]


def is_narrow(program: core.ClosedJaxpr) -> bool:
  """Whether anything is computed in bfloat16."""
  for equation in program.jaxpr.eqns:
    if any(getattr(variable.aval, "dtype", None) == jnp.bfloat16 for variable in equation.outvars):
      return True
    if any(isinstance(value, core.ClosedJaxpr) and is_narrow(value) for value in equation.params.values()):
      return True
  return False


def _compute(equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
  primitive = equation.primitive
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
  """Returns any number: `_cond` does not read it."""
  return [np.int32(0)]


def _cond(params: dict[str, Any], index: Any, *inputs: Any) -> Sequence[Any] | None:
  platforms = params.get("branches_platforms")
  if platforms is None or None not in platforms:
    return None
  return evaluate(params["branches"][platforms.index(None)], *inputs)


def _pad(params: dict[str, Any], x: jax.Array, value: jax.Array) -> Sequence[Any] | None:
  if any(low < 0 or high < 0 or between for low, high, between in params["padding_config"]):
    return None
  for axis, (low, high, _) in enumerate(params["padding_config"]):
    x = _extend(x, axis, low, high, value)
  return [x]


def _largest(params: dict[str, Any], x: jax.Array) -> Sequence[Any] | None:
  if any(dilation != 1 for dilation in params["base_dilation"]):
    return None
  names = ("window_dimensions", "window_strides", "padding", "window_dilation")
  for axis, (window, stride, (low, high), dilation) in enumerate(zip(*(params[name] for name in names), strict=True)):
    if window == stride == 1 and not (low or high):
      continue
    x = _extend(x, axis, low, high, lax.full((), -float("inf"), x.dtype))
    last = x.shape[axis] - (window - 1) * dilation  # where a window can begin
    x = _maximum([lax.slice_in_dim(x, i * dilation, i * dilation + last, stride, axis) for i in range(window)])
  return [x]


def _maximum(parts: Sequence[jax.Array]) -> jax.Array:
  largest = parts[0]
  for part in parts[1:]:
    largest = lax.max(largest, part)
  return largest


def _extend(x: jax.Array, axis: int, low: int, high: int, value: jax.Array) -> jax.Array:
  """Lays `low` and `high` places of a value before and behind an axis."""

  def places(length: int) -> list[jax.Array]:
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    return [lax.broadcast_in_dim(value, shape, ())] if length else []

  return lax.concatenate([*places(low), x, *places(high)], axis) if low or high else x


# A rule that returns None leaves the primitive as it is.
_RULES: dict[str, Callable[..., Sequence[Any] | None]] = {
  "platform_index": _platform_index,
  "cond": _cond,
  "pad": _pad,
  "reduce_window_max": _largest,
}
