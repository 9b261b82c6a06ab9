"""Shapes and dtypes of a network from one abstract trace; nothing is compiled or computed."""

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
  """A network with the shapes of its variables and the outputs of its layers for two images.

  Attributes:
    network: Network that was traced.
    params: Shapes of its parameters.
    stats: Shapes of its batch statistics.
    outputs: Outputs of the layers, in the order in which they are applied.
    features: Features, which the walk returns with the logits.
    modules: Type, dtype and axis name of all convolutions, dense layers and normalisations.
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
  """Returns the trace of a network on two images of size x size pixels."""
  network = settings.build(classes, dtype, axis_name)
  outputs, modules, features = {}, set(), []

  def walk(apply, image):
    def record(name, *inputs):
      assert name not in outputs, f"{name} is applied twice"
      output = apply(name, *inputs)
      outputs[name] = jax.ShapeDtypeStruct(output.shape, output.dtype)
      return output

    logits, found = network.walk(record, image)
    features.append(jax.ShapeDtypeStruct(found.shape, found.dtype))
    return logits, found

  def record_module(call, inputs, options, context):
    if isinstance(context.module, LEAVES):
      modules.add((type(context.module), context.module.dtype, getattr(context.module, "axis_name", None)))
    return call(*inputs, **options)

  with nn.intercept_methods(record_module):
    recorded = dataclasses.replace(network, walk=walk)
    params, stats = jax.eval_shape(recorded.init, jax.random.key(0), image_of(size, channels))
  return Trace(network, params, stats, outputs, features[0], modules)


def count(tree):
  """Returns the number of elements of all leaves."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def imagenet_parameters(settings):
  """Returns the number of parameters of a network for images of 224x224x3 and 1000 classes."""
  return count(traced(settings, 224, 3, 1000).params)
