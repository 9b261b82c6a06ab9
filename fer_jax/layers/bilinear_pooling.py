"""Bilinear pooling of two feature maps (Lin, RoyChowdhury & Maji 2015, arXiv:1504.07889): feature co-occurrence."""

import jax
import jax.numpy as jnp

# Added under the root so that the gradient of `signed_sqrt` at 0 is 1 / sqrt(1e-5) = 316 and not infinite; for
# |x| well below this value the function is linear.
_ROOT_EPSILON = 1e-5
_NORM_EPSILON = 1e-12  # keeps the norm of a zero row, and its gradient, finite


def bilinear_pool(a: jax.Array, b: jax.Array) -> jax.Array:
  """Sums the outer products of two feature maps over all spatial locations.

  Args:
    a: Feature maps of shape [B, H, W, C].
    b: Feature maps of shape [B, H, W, D].

  Returns:
    float32 [B, C * D]; entry c * D + d is the sum over locations of a[..., c] * b[..., d].
  """
  pooled = jnp.einsum("bhwc,bhwd->bcd", a, b, preferred_element_type=jnp.float32)
  # [B, C, D] -> [B, C*D]
  return pooled.reshape(pooled.shape[0], -1)


def signed_sqrt(x: jax.Array) -> jax.Array:
  """Returns sign(x) sqrt(|x|), smoothed at 0 as x / sqrt(|x| + 1e-5), in the shape and dtype of `x`."""
  return x * jax.lax.rsqrt(jnp.abs(x) + _ROOT_EPSILON)


def l2_normalize(x: jax.Array) -> jax.Array:
  """Scales each row of x [B, D] to Euclidean length 1; a zero row stays zero and has a finite gradient."""
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + _NORM_EPSILON)
