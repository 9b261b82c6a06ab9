"""Random variables for layers and networks, drawn without compiling the initialisers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def shapes_of(layer, *inputs):
  """Returns the shapes and dtypes of a layer's variables."""
  return jax.eval_shape(functools.partial(layer.init, train=False), jax.random.key(0), *inputs)


def drawn(shapes):
  """Draws kernels that preserve the variance of their input, scales and variances near 1, and small other values."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      values = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
    elif path[-1].key in ("scale", "var"):
      values = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      values = rng.normal(0, 0.1, leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def random_variables(layer, *inputs):
  """Returns random variables of a layer."""
  return drawn(shapes_of(layer, *inputs))
