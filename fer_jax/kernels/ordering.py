"""Control over the order of a compiled program's operations, where that order determines the peak memory."""

import jax
import jax.numpy as jnp


def depend_on(x: jax.Array, *earlier: jax.Array) -> jax.Array:
  """Returns x unchanged, in a form that makes XLA compute `earlier` first.

  `jax.lax.optimization_barrier` has the same purpose, but on CPUs XLA removes the barrier before it merges equal
  operations and before it schedules them. This function uses a selection whose condition is always true, with NaN
  or without, and which XLA cannot simplify.

  Args:
    x: Array of any shape and dtype.
    *earlier: Float arrays, none of them empty.

  Returns:
    x, bit for bit.
  """
  # One element per array is enough to make the result depend on the whole computation of that array.
  number = sum(array[(0,) * array.ndim].astype(jnp.float32) for array in earlier)
  # True for every float, NaN included; XLA does not fold it to a constant.
  always = (number == number) | (number != number)  # noqa: PLR0124
  return jnp.where(always, x, jnp.zeros_like(x))
