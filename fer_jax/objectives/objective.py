"""The signature of all objectives, and the operations that they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fer_jax.models.network import Tree


class Examples(NamedTuple):
  """The rows of a batch on one device, augmented and standardised.

  Attributes:
    image: Images, float [b, H, W, C].
    target: Distributions over the classes, float32 [b, K].
  """

  image: jax.Array
  target: jax.Array


class ObjectiveOutput(NamedTuple):
  """Outputs of an objective for a batch, equal on every device.

  Attributes:
    gradients: Gradients of the trainable layers, {layer name: tree with the structure of its parameters}.
    stats: New batch statistics of all layers, and the state of the objective.
    metrics: Float32 scalars by name; always `loss`, and `accuracy` unless only hidden layers are trained
      locally.
  """

  gradients: Tree
  stats: Tree
  metrics: dict[str, jax.Array]


# Pure function (params of all layers, batch statistics of all layers, batch, random key) -> ObjectiveOutput.
Objective = Callable[[Tree, Tree, Examples, jax.Array], ObjectiveOutput]


def sum_over_devices(tree: Any, axis_name: str | None) -> Any:
  """Returns the sum of a tree over the devices of `axis_name`; the tree itself if `axis_name` is None."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def global_rows(rows: int, axis_name: str | None) -> int:
  """Returns the global batch size, given the number of rows on one device."""
  return rows if axis_name is None else rows * jax.lax.axis_size(axis_name)


def smoothed(target: jax.Array, label_smoothing: float) -> jax.Array:
  """Returns targets [b, K] mixed with the uniform distribution; `label_smoothing` is its weight, 0 to 1."""
  return optax.smooth_labels(target, label_smoothing) if label_smoothing else target


def count_correct(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Returns the number of rows whose largest logit is the most likely class of the target, a float32 scalar."""
  return jnp.sum(jnp.argmax(logits, -1) == jnp.argmax(target, -1), dtype=jnp.float32)
