"""The two pure functions of a run, and the state that travels through them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax.data.augment import Augmentation, standardize
from fer_jax.data.batch import Batch
from fer_jax.data.mixing import Mixing, partners
from fer_jax.data.views import seen_as
from fer_jax.losses.cross_entropy import cross_entropy
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.objective import Examples, Objective, sum_over_devices

Metrics = dict[str, jax.Array]
_UNMIXED = Mixing()


@flax.struct.dataclass
class TrainState:
  """Everything that changes from step to step, un-stacked: one copy, whatever the number of devices.

  Attributes:
    step: int32 scalar, steps taken since the run began. Randomness is a function of it and the seed.
    params: {layer name: parameters}, all layers.
    stats: {layer name: batch statistics}, all layers, and what the objective keeps by a name of its own.
    opt_state: the optax state of the phase's trainable layers.
    average: the exponential moving average of the trainable layers' (parameters, statistics); () where none is kept.
  """

  step: jax.Array
  params: Tree
  stats: Tree
  opt_state: Any
  average: Any = ()

  @property
  def variables(self) -> tuple[Tree, Tree]:
    """What is evaluated, and handed on to the next phase: (params, stats), the averages where some are kept."""
    params, stats = self.average or ({}, {})
    return {**self.params, **params}, {**self.stats, **stats}


class Moment(NamedTuple):
  """What a step depends on beside its state and data. As an argument it leaves one program for every seed.

  Attributes:
    progress: float32 scalar in [0, 1], how much of the phase is behind.
    seed: int32 scalar, of the run.
    rate: float32 scalar, what plateaus have left of the learning rate.
  """

  progress: Any
  seed: Any
  rate: Any = np.float32(1.0)


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
  *,
  mixing: Mixing = _UNMIXED,
  average: float = 0.0,
) -> TrainStep:
  """Returns (state, resident, batch, moment) -> (state, metrics), to be compiled by `parallel`.

  Every random number is a function of the seed, the step and, for augmentation, the row's place in the global
  batch: a run resumed after N steps equals one that never stopped, and so does one on more devices.

  Args:
    objective: batch -> gradients of the trainable layers.
    optimizer: gradients -> updates; receives `progress` in [0, 1], and `rate`.
    augmentation: of one image.
    axis_name: mapped axis of devices; None on one device.
    mixing: of one image with another of the global batch.
    average: decay of the moving average of what is learned, for a state that has one.
  """

  def train_step(state: TrainState, resident: Resident, batch: Batch, moment: Moment) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(moment.seed), state.step)
    mix_key = jax.random.fold_in(key, 2)  # 0 and 1 would be the halves of the split below
    augment_key, model_key = jax.random.split(key)
    if axis_name is not None:
      model_key = jax.random.fold_in(model_key, jax.lax.axis_index(axis_name))
    image, target = rows_of(resident, batch)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, global_positions(len(image), axis_name))
    examples = Examples(standardize(jax.vmap(augmentation)(image, row_keys)), target)
    if mixing.active:
      examples = _mixed(mixing, examples, mix_key, axis_name)
    learned = objective(state.params, state.stats, examples, model_key)
    trained = {name: state.params[name] for name in learned.gradients}
    updates, opt_state = optimizer.update(
      learned.gradients, state.opt_state, trained, progress=moment.progress, rate=moment.rate
    )
    params = {**state.params, **optax.apply_updates(trained, updates)}
    metrics = {**learned.metrics, "gradient_norm": optax.tree.norm(learned.gradients)}
    moved = TrainState(state.step + 1, params, learned.stats, opt_state, state.average)
    return (dataclasses.replace(moved, average=_averaged(moved, average)) if average else moved), metrics

  return train_step


def make_eval_step(network: Network, axis_name: str | None = None, *, margin: int = 0) -> EvalStep:
  """Returns ((params, stats), resident, batch) -> (sums, probabilities float32 [B, K]), both over all devices.

  Args:
    network: to evaluate.
    axis_name: mapped axis of devices; None on one device.
    margin: of the views that a batch may ask for, in pixels.
  """

  def eval_step(variables: tuple[Tree, Tree], resident: Resident, batch: Batch) -> tuple[Sums, jax.Array]:
    image, target = rows_of(resident, batch)
    if batch.view is not None:
      image = jax.vmap(functools.partial(seen_as, margin=margin))(image, batch.view)
    outputs, _ = network.apply(*variables, standardize(image))
    label, predicted = jnp.argmax(target, -1), jnp.argmax(outputs.logits, -1)
    classes = target.shape[-1]
    pairs = jnp.where(batch.mask, label * classes + predicted, classes**2)  # padding falls off the end
    confusion = jnp.zeros(classes**2 + 1, jnp.int32).at[pairs].add(1)[:-1].reshape(classes, classes)
    loss = jnp.sum(jnp.where(batch.mask, cross_entropy(outputs.logits, target), 0.0))
    sums = Sums(*sum_over_devices((loss, confusion), axis_name))
    probability = jax.nn.softmax(outputs.logits)
    if axis_name is not None:
      probability = jax.lax.all_gather(probability, axis_name, tiled=True)
    return sums, probability

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


def _mixed(mixing: Mixing, examples: Examples, key: jax.Array, axis_name: str | None) -> Examples:
  """Mixes each row with another of the global batch, the same whatever the number of devices."""
  rows = len(examples.target)
  position = global_positions(rows, axis_name)
  everyone = examples if axis_name is None else jax.lax.all_gather(examples, axis_name, tiled=True)
  partner_key, row_key = jax.random.split(key)
  partner = partners(len(everyone.target), partner_key)[position]
  others = jax.tree.map(lambda x: x[partner], everyone)
  row_keys = jax.vmap(jax.random.fold_in, (None, 0))(row_key, position)
  return Examples(*jax.vmap(mixing)(examples.image, examples.target, others.image, others.target, row_keys))


def _averaged(state: TrainState, decay: float) -> tuple[Tree, Tree]:
  """Moves the average towards what was learned; the fewer steps there were, the less it clings to the beginning."""
  taken = state.step.astype(jnp.float32)
  weight = 1 - jnp.minimum(decay, (1 + taken) / (10 + taken))
  params, stats = state.average
  learned = {name: state.params[name] for name in params}, {name: state.stats[name] for name in stats}
  return jax.tree.map(lambda mean, new: mean + weight * (new - mean), (params, stats), learned)
