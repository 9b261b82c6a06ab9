"""Control over the order of a compiled program's operations, where that order determines the peak memory."""

from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def depend_on(tree: T, *earlier: jax.Array) -> T:
  """Returns a tree of arrays unchanged, in a form that makes XLA compute `earlier` first.

  Args:
    tree: Arrays of any shape and dtype.
    *earlier: Float arrays, none of them empty.

  Returns:
    The same arrays, bit for bit.
  """
  if not earlier:
    return tree
  return jax.lax.platform_dependent(tree, earlier, cpu=_selected, default=_after_barrier)


def _after_barrier(tree: T, earlier: tuple[jax.Array, ...]) -> T:
  # A barrier for each array: with one for all parameters of a layer, XLA for GPUs did not keep the order.
  return jax.tree.map(lambda x: jax.lax.optimization_barrier((x, earlier))[0], tree)


def _selected(tree: T, earlier: tuple[jax.Array, ...]) -> T:
  """Makes the dependence by a selection, because XLA removes barriers on CPUs before it merges equal operations.

  The condition of the selection is always true, with NaN or without, and XLA cannot simplify it.
  """
  # One element per array is enough to make the result depend on the whole computation of that array.
  number = sum(array[(0,) * array.ndim].astype(jnp.float32) for array in earlier)
  # True for every float, NaN included; XLA does not fold it to a constant.
  always = (number == number) | (number != number)  # noqa: PLR0124
  return jax.tree.map(lambda x: jnp.where(always, x, jnp.zeros_like(x)), tree)
