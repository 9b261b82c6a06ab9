"""What a network is, found by one trace of it: nothing is compiled or computed."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.kernels.convolution import Conv

LEAVES = (Conv, nn.Dense, nn.BatchNorm)


class Trace(NamedTuple):
  """A network, the shapes of its parameters and statistics, and what a walk of two images showed.

  Attributes:
    outputs: each layer's output, in the order of the walk.
    features: what the walk returned beside the logits.
    modules: the kind, dtype and axis name of everything that computes.
  """

  network: Any
  params: Any
  stats: Any
  outputs: dict[str, jax.ShapeDtypeStruct]
  features: jax.ShapeDtypeStruct
  modules: set[tuple[type, Any, str | None]]


def image_of(size, channels):
  return jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)


@functools.cache
def traced(settings, size=48, channels=1, classes=7, dtype=jnp.float32, axis_name=None):
  network = settings.build(classes, dtype, axis_name)
  outputs, modules, features = {}, set(), []

  def walk(apply, image):
    def record(name, *inputs):
      assert name not in outputs, f"{name} is walked twice"
      output = apply(name, *inputs)
      outputs[name] = jax.ShapeDtypeStruct(output.shape, output.dtype)
      return output

    logits, found = network.walk(record, image)
    features.append(jax.ShapeDtypeStruct(found.shape, found.dtype))
    return logits, found

  def look(run, inputs, options, context):
    if isinstance(context.module, LEAVES):
      modules.add((type(context.module), context.module.dtype, getattr(context.module, "axis_name", None)))
    return run(*inputs, **options)

  with nn.intercept_methods(look):
    watched = dataclasses.replace(network, walk=walk)
    params, stats = jax.eval_shape(watched.init, jax.random.key(0), image_of(size, channels))
  return Trace(network, params, stats, outputs, features[0], modules)


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def imagenet_parameters(settings):
  """Counts the parameters that a network has for images of 224x224x3 in 1000 classes."""
  return count(traced(settings, 224, 3, 1000).params)
