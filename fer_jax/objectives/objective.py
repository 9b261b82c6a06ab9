"""The signature that all objectives share, and the sums over devices that they end with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fer_jax.models.network import Tree


class Examples(NamedTuple):
  """A batch as an objective sees it: augmented, standardised, on the device.

  Attributes:
    image: float [b, H, W, C], this device's rows.
    target: float32 [b, K], a distribution over the classes.
  """

  image: jax.Array
  target: jax.Array


class Learned(NamedTuple):
  """What an objective makes of a batch; the same on every device.

  Attributes:
    gradients: of the trainable layers, {layer name: tree like its parameters}.
    stats: the new batch statistics of all layers, and what the objective keeps.
    metrics: float32 scalars by name; `loss` always, `accuracy` where the classifier was run.
  """

  gradients: Tree
  stats: Tree
  metrics: dict[str, jax.Array]


# (params of all layers, batch statistics of all layers, batch, random key of the step) -> Learned. Pure.
Objective = Callable[[Tree, Tree, Examples, jax.Array], Learned]


def sum_over_devices(tree: Any, axis_name: str | None) -> Any:
  """Completes what each device contributed; the identity on one device."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def global_rows(rows: int, axis_name: str | None) -> int:
  """Returns the batch size over all devices, given one device's."""
  return rows if axis_name is None else rows * jax.lax.axis_size(axis_name)


def smoothed(target: jax.Array, label_smoothing: float) -> jax.Array:
  """Mixes the uniform distribution into targets [b, K], with that weight; the targets themselves for none."""
  return optax.smooth_labels(target, label_smoothing) if label_smoothing else target


def count_correct(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Counts, as float32, the rows whose largest logit is the target's most likely class."""
  return jnp.sum(jnp.argmax(logits, -1) == jnp.argmax(target, -1), dtype=jnp.float32)
