"""Bilinear pooling of two maps (Lin, RoyChowdhury & Maji 2015, arXiv:1504.07889): which features occur together."""

import jax
import jax.numpy as jnp

# Below the root of this the signed square root is linear: its gradient at 0 is 1 / sqrt(1e-5) = 316, not infinite.
_ROOT_EPSILON = 1e-5
_NORM_EPSILON = 1e-12


def bilinear_pool(a: jax.Array, b: jax.Array) -> jax.Array:
  """Sums the outer products of two maps' features over all locations.

  Args:
    a: [B, H, W, C].
    b: [B, H, W, D].

  Returns:
    float32 [B, C D], the features of `a` in the outer loop.
  """
  pooled = jnp.einsum("bhwc,bhwd->bcd", a, b, preferred_element_type=jnp.float32)
  return pooled.reshape(pooled.shape[0], -1)


def signed_sqrt(x: jax.Array) -> jax.Array:
  """Returns sign(x) sqrt(|x|), smooth at 0: x / sqrt(|x| + 1e-5), in the shape and dtype of `x`."""
  return x * jax.lax.rsqrt(jnp.abs(x) + _ROOT_EPSILON)


def l2_normalize(x: jax.Array) -> jax.Array:
  """Scales each row of x [B, D] to Euclidean length 1; a row of zeros stays, with a finite gradient."""
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + _NORM_EPSILON)
