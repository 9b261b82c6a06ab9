"""The two pure functions of a run, and the state that travels through them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fer_jax.data.augment import Augmentation, standardize
from fer_jax.data.batch import Batch
from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.objective import Examples, Objective, sum_over_devices

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """Everything that changes from step to step, un-stacked: one copy, whatever the number of devices.

  Attributes:
    step: int32 scalar, steps taken since the run began. Randomness is a function of it and the seed.
    params: {layer name: parameters}, all layers.
    stats: {layer name: batch statistics}, all layers.
    opt_state: the optax state of the phase's trainable layers.
  """

  step: jax.Array
  params: Tree
  stats: Tree
  opt_state: Any


class Moment(NamedTuple):
  """What a step depends on beside its state and data. As an argument it leaves one program for every seed.

  Attributes:
    progress: float32 scalar in [0, 1], how much of the phase is behind.
    seed: int32 scalar, of the run.
  """

  progress: Any
  seed: Any


class Resident(NamedTuple):
  """A dataset that lives on the device, so that only indices travel; empty fields where batches carry the rows.

  Attributes:
    image: uint8 [N, H, W, C].
    target: float32 [N, K].
  """

  image: Any = None
  target: Any = None


class Sums(NamedTuple):
  """Exact sums over the real rows of a batch, over all devices.

  Attributes:
    loss: float32 scalar, summed cross-entropy in nats.
    confusion: int32 [K, K], rows true, columns predicted.
  """

  loss: jax.Array
  confusion: jax.Array


TrainStep = Callable[[TrainState, Resident, Batch, Moment], tuple[TrainState, Metrics]]
EvalStep = Callable[[tuple[Tree, Tree], Resident, Batch], tuple[Sums, jax.Array]]


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformationExtraArgs,
  augmentation: Augmentation,
  axis_name: str | None = None,
) -> TrainStep:
  """Returns (state, resident, batch, moment) -> (state, metrics), to be compiled by `parallel`.

  Every random number is a function of the seed, the step and, for augmentation, the row's place in the global
  batch: a run resumed after N steps equals one that never stopped, and so does one on more devices.

  Args:
    objective: batch -> gradients of the trainable layers.
    optimizer: gradients -> updates; receives `progress` in [0, 1].
    augmentation: of one image.
    axis_name: mapped axis of devices; None on one device.
  """

  def train_step(state: TrainState, resident: Resident, batch: Batch, moment: Moment) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(moment.seed), state.step)
    augment_key, model_key = jax.random.split(key)
    if axis_name is not None:
      model_key = jax.random.fold_in(model_key, jax.lax.axis_index(axis_name))
    image, target = rows_of(resident, batch)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, global_positions(len(image), axis_name))
    image = jax.vmap(augmentation)(image, row_keys)
    learned = objective(state.params, state.stats, Examples(standardize(image), target), model_key)
    trained = {name: state.params[name] for name in learned.gradients}
    updates, opt_state = optimizer.update(learned.gradients, state.opt_state, trained, progress=moment.progress)
    params = {**state.params, **optax.apply_updates(trained, updates)}
    metrics = {**learned.metrics, "gradient_norm": optax.tree.norm(learned.gradients)}
    return TrainState(state.step + 1, params, learned.stats, opt_state), metrics

  return train_step


def make_eval_step(network: Network, axis_name: str | None = None) -> EvalStep:
  """Returns ((params, stats), resident, batch) -> (sums over all devices, probabilities float32 [b, K])."""

  def eval_step(variables: tuple[Tree, Tree], resident: Resident, batch: Batch) -> tuple[Sums, jax.Array]:
    image, target = rows_of(resident, batch)
    outputs, _ = network.apply(*variables, standardize(image))
    label, predicted = jnp.argmax(target, -1), jnp.argmax(outputs.logits, -1)
    classes = target.shape[-1]
    pairs = jnp.where(batch.mask, label * classes + predicted, classes**2)  # padding falls off the end
    confusion = jnp.zeros(classes**2 + 1, jnp.int32).at[pairs].add(1)[:-1].reshape(classes, classes)
    loss = jnp.sum(jnp.where(batch.mask, cross_entropy(outputs.logits, target), 0.0))
    sums = Sums(*sum_over_devices((loss, confusion), axis_name))
    return sums, jax.nn.softmax(outputs.logits)

  return eval_step


def rows_of(resident: Resident, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Returns a batch's images, uint8 [b, H, W, C], and targets, float32 [b, K], wherever they live."""
  if resident.image is None or resident.target is None:
    return batch.image, batch.target
  return resident.image[batch.index], resident.target[batch.index]


def global_positions(rows: int, axis_name: str | None) -> jax.Array:
  """Returns the places, int32 [b], of this device's rows in the global batch."""
  start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
  return start + jnp.arange(rows)
