"""The order of a compiled program's operations, where it decides how much memory they need."""

import jax
import jax.numpy as jnp


def depend_on(x: jax.Array, *earlier: jax.Array) -> jax.Array:
  """Returns x, in a way that makes XLA compute `earlier` first.

  `jax.lax.optimization_barrier` says the same, but on CPUs XLA removes it before it merges equal operations and
  before it orders them. This is a selection whose condition is always true, NaN or not, which XLA cannot prove.

  Args:
    x: Array of any shape and dtype.
    *earlier: Float arrays, none of them empty.

  Returns:
    x, bit for bit.
  """
  number = sum(array[(0,) * array.ndim].astype(jnp.float32) for array in earlier)
  always = (number == number) | (number != number)  # noqa: PLR0124
  return jnp.where(always, x, jnp.zeros_like(x))
