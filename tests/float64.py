"""Evaluates a float32 program in float64, one operation at a time: a reference for the program that XLA compiles."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_NARROW, _WIDE = np.dtype(np.float32), np.dtype(np.float64)
# Operations that contain a float32 computation, which is traced again with the float64 arguments.
_SCATTERS = {"scatter-add": jax.lax.scatter_add, "scatter": jax.lax.scatter}


def evaluate(function: Callable[..., Any], *arguments: Any) -> Any:
  """Evaluates a function of float32 arrays with float64 in place of float32.

  Each operation is compiled separately, so that nothing is fused, and loops run in Python. Integers, booleans and
  random bits are unchanged: the same random numbers are drawn.

  Args:
    function: Pure function of arrays.
    *arguments: Trees of arrays.

  Returns:
    Tree of NumPy arrays.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  with jax.enable_x64(True):
    results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), [np.asarray(leaf) for leaf in results])


def _widen(x: Any) -> Any:
  x = jnp.asarray(x)
  return x.astype(_WIDE) if x.dtype == _NARROW else x


def _run(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
  values = {}
  for variables, given_values in ((jaxpr.constvars, constants), (jaxpr.invars, arguments)):
    values |= {variable: _widen(x) for variable, x in zip(variables, given_values, strict=True)}

  def read(atom: Any) -> Any:
    return _widen(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, core.Literal) else values[atom]

  last_use = {a: i for i, equation in enumerate(jaxpr.eqns) for a in _variables(equation.invars)}
  outputs = _variables(jaxpr.outvars)
  for i, equation in enumerate(jaxpr.eqns):
    results = _apply(equation, [read(atom) for atom in equation.invars])
    values |= {variable: _widen(x) for variable, x in zip(equation.outvars, results, strict=True)}
    for variable in {
      a for a in _variables(equation.invars) if last_use[a] == i
    } - outputs:  # otherwise the values take gigabytes
      del values[variable]
  return [read(atom) for atom in jaxpr.outvars]


def _variables(atoms: Sequence[Any]) -> set[core.Var]:
  return {atom for atom in atoms if isinstance(atom, core.Var)}


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
  name, parameters = equation.primitive.name, equation.params
  match name:
    case "cond":
      branches = parameters["branches"]
      branch = branches[min(max(int(inputs[0]), 0), len(branches) - 1)]
      return _run(branch.jaxpr, branch.consts, inputs[1:])
    case "platform_index":
      return [next(i for i, names in enumerate(parameters["platforms"]) if names is None or "cpu" in names)]
    case "scan":
      return _scan(equation, inputs)
    case "while":
      return _while(inputs, **parameters)
    case "bitcast_convert_type":  # the bits are those of float32
      inputs = [x.astype(atom.aval.dtype) for x, atom in zip(inputs, equation.invars, strict=True)]
      return [equation.primitive.bind(*inputs, **parameters)]
    case "scatter" | "scatter-add":
      options = {key: parameters[key] for key in ("indices_are_sorted", "unique_indices", "mode")}
      return [_SCATTERS[name](*inputs, parameters["dimension_numbers"], **options)]
  for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):  # jit, remat, custom derivatives and batching rules
    if (inner := parameters.get(key)) is not None:
      return _run(inner.jaxpr, inner.consts, inputs) if hasattr(inner, "jaxpr") else _run(inner, [], inputs)
  widened = {key: _WIDE if _is_narrow(value) else value for key, value in parameters.items()}
  results = equation.primitive.bind(*inputs, **widened)
  return list(results) if equation.primitive.multiple_results else [results]


def _is_narrow(value: Any) -> bool:
  return isinstance(value, (np.dtype, type)) and value in (_NARROW, np.float32)


def _scan(equation: Any, inputs: list[Any]) -> list[Any]:
  body, reverse = equation.params["jaxpr"], equation.params["reverse"]
  # The parameters that count carried values differ between versions of JAX; scanned arrays have one axis more outside.
  outside, inside = equation.outvars, body.jaxpr.outvars
  carried = sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))
  unscanned = sum(a.aval.ndim == b.aval.ndim for a, b in zip(equation.invars, body.jaxpr.invars, strict=True))
  constants, carry, rows = inputs[: unscanned - carried], inputs[unscanned - carried : unscanned], inputs[unscanned:]
  results = []
  order = range(equation.params["length"])
  for i in reversed(order) if reverse else order:
    found = _run(body.jaxpr, body.consts, [*constants, *carry, *(x[i] for x in rows)])
    carry = found[:carried]
    results.append(found[carried:])
  stacked = [jnp.stack(column) for column in zip(*(reversed(results) if reverse else results), strict=True)]
  return [*carry, *stacked]


def _while(
  inputs: list[Any], *, cond_jaxpr: Any, cond_nconsts: int, body_jaxpr: Any, body_nconsts: int, **_: Any
) -> list[Any]:
  condition_constants, rest = inputs[:cond_nconsts], inputs[cond_nconsts:]
  body_constants, carry = rest[:body_nconsts], rest[body_nconsts:]
  while bool(_run(cond_jaxpr.jaxpr, cond_jaxpr.consts, [*condition_constants, *carry])[0]):
    carry = _run(body_jaxpr.jaxpr, body_jaxpr.consts, [*body_constants, *carry])
  return carry
