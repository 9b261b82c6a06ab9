"""The training step and the evaluation step, both pure functions, and the training state."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from fer_jax.data.augment import Augmentation, standardize
from fer_jax.data.batch import Batch
from fer_jax.data.mixing import Mixing, partners
from fer_jax.data.views import apply_view
from fer_jax.losses import cross_entropy
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.objective import Examples, Objective, sum_over_devices

Metrics = dict[str, jax.Array]
_UNMIXED = Mixing()


@flax.struct.dataclass
class TrainState:
  """Everything that changes from step to step: one copy, not stacked, for any number of devices.

  Attributes:
    step: Number of steps since the start of the run, int32 scalar. Randomness is a function of it and the seed.
    params: Parameters of all layers, {layer name: tree}.
    stats: Batch statistics of all layers, {layer name: tree}, and the state of the objective under a separate name.
    opt_state: Optax state of the phase's trainable layers.
    average: Exponential moving averages (params, stats) of the trainable layers; () if none are computed.
  """

  step: jax.Array
  params: Tree
  stats: Tree
  opt_state: Any
  average: Any = ()

  @property
  def variables(self) -> tuple[Tree, Tree]:
    """The (params, stats) to evaluate and to pass to the next phase, using the averages of averaged layers."""
    params, stats = self.average or ({}, {})
    return {**self.params, **params}, {**self.stats, **stats}


class StepContext(NamedTuple):
  """Inputs of a step in addition to state and data. As arguments, they do not require a recompilation for each seed.

  Attributes:
    progress: Completed fraction of the phase, float32 scalar in [0, 1].
    seed: Random seed of the replica, int32 scalar.
    lr_scale: Factor of the learning rate due to plateaus, float32 scalar.
  """

  progress: Any
  seed: Any
  lr_scale: Any = np.float32(1.0)


class Resident(NamedTuple):
  """A dataset in device memory, of which batches only contain indices; None fields if batches contain the rows.

  Attributes:
    image: Images, uint8 [N, H, W, C].
    target: Distributions over the classes, float32 [N, K].
  """

  image: Any = None
  target: Any = None


class Sums(NamedTuple):
  """Exact sums over the rows of a global batch, without padding.

  Attributes:
    loss: Sum of the cross-entropy in nats, float32 scalar.
    confusion: Confusion matrix, int32 [K, K]; rows are true classes, columns are predictions.
  """

  loss: jax.Array
  confusion: jax.Array


TrainStep = Callable[[TrainState, Resident, Batch, StepContext], tuple[TrainState, Metrics]]
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
  """Returns the training step, to be compiled by a `parallel.Placement`.

  Every random number is a function of the seed, the step and, for augmentation, the position of the row in the global
  batch. A resumed run is therefore identical to an uninterrupted one. Except for dropout, the random numbers do not
  depend on the number of devices.

  Args:
    objective: Objective that computes the gradients of the trainable layers.
    optimizer: Optimiser of the trainable layers; its `update` receives `progress` in [0, 1] and `lr_scale`.
    augmentation: Augmentation of one image.
    axis_name: Mapped axis of devices; None on one device.
    mixing: Mixing of an image with another one of the global batch.
    average: Decay of the moving averages of the trainable layers; 0 if the state has none.

  Returns:
    Pure function (state, resident, batch, context) -> (state, metrics).
  """

  def train_step(
    state: TrainState, resident: Resident, batch: Batch, context: StepContext
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(context.seed), state.step)
    mix_key = jax.random.fold_in(key, 2)  # 0 and 1 would give the keys of the split below
    augment_key, model_key = jax.random.split(key)
    if axis_name is not None:  # different dropout masks on each device
      model_key = jax.random.fold_in(model_key, jax.lax.axis_index(axis_name))
    image, target = rows_of(resident, batch)
    # One key per row, [b], by its position in the global batch: independent of the number of devices.
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, global_positions(len(image), axis_name))
    # uint8 [b, H, W, C] -> float [b, H, W, C]
    examples = Examples(standardize(jax.vmap(augmentation)(image, row_keys)), target)
    if mixing.active:
      examples = _mixed(mixing, examples, mix_key, axis_name)
    output = objective(state.params, state.stats, examples, model_key)
    # On a GPU, cuDNN's gradients have another layout than the parameters, and the update would be computed in it and
    # copied back, array by array. The barrier makes XLA convert them once, all in one array, which also gives the norm
    # in one kernel. XLA for CPUs removes the barrier, and then the concatenation.
    flat, unravel = ravel_pytree(output.gradients)
    gradients = unravel(jax.lax.optimization_barrier(flat))
    # The optimiser receives the trainable layers only; frozen layers are copied to the new state.
    trained = {name: state.params[name] for name in gradients}
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, trained, progress=context.progress, lr_scale=context.lr_scale
    )
    params = {**state.params, **optax.apply_updates(trained, updates)}
    metrics = {**output.metrics, "gradient_norm": jnp.linalg.norm(flat)}
    updated = TrainState(state.step + 1, params, output.stats, opt_state, state.average)
    return (dataclasses.replace(updated, average=_averaged(updated, average)) if average else updated), metrics

  return train_step


def make_eval_step(network: Network, axis_name: str | None = None, *, margin: int = 0) -> EvalStep:
  """Returns the evaluation step, to be compiled by a `parallel.Placement`.

  Args:
    network: Network to evaluate.
    axis_name: Mapped axis of devices; None on one device.
    margin: Margin of the test-time augmentation views, in pixels.

  Returns:
    Pure function ((params, stats), resident, batch) -> (sums, probabilities float32 [B, K]), both of the global batch.
  """

  def eval_step(variables: tuple[Tree, Tree], resident: Resident, batch: Batch) -> tuple[Sums, jax.Array]:
    image, target = rows_of(resident, batch)
    if batch.view is not None:
      image = jax.vmap(functools.partial(apply_view, margin=margin))(image, batch.view)
    outputs, _ = network.apply(*variables, standardize(image))
    label, predicted = jnp.argmax(target, -1), jnp.argmax(outputs.logits, -1)
    classes = target.shape[-1]
    # Confusion matrix as a histogram of K^2 cells; padded rows are counted in an additional cell, which is cut off.
    pairs = jnp.where(batch.mask, label * classes + predicted, classes**2)
    confusion = jnp.zeros(classes**2 + 1, jnp.int32).at[pairs].add(1)[:-1].reshape(classes, classes)
    loss = jnp.sum(jnp.where(batch.mask, cross_entropy(outputs.logits, target), 0.0))
    sums = Sums(*sum_over_devices((loss, confusion), axis_name))
    probability = jax.nn.softmax(outputs.logits)
    if axis_name is not None:
      # [b, K] -> [B, K]
      probability = jax.lax.all_gather(probability, axis_name, tiled=True)
    return sums, probability

  return eval_step


def rows_of(resident: Resident, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Returns the images, uint8 [b, H, W, C], and targets, float32 [b, K], of a batch, resident or not."""
  if resident.image is None or resident.target is None:
    return batch.image, batch.target
  return resident.image[batch.index], resident.target[batch.index]


def global_positions(rows: int, axis_name: str | None) -> jax.Array:
  """Returns the positions of this device's rows in the global batch, int32 [rows]."""
  start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
  return start + jnp.arange(rows)


def _mixed(mixing: Mixing, examples: Examples, key: jax.Array, axis_name: str | None) -> Examples:
  """Mixes each row with another one of the global batch, independently of the number of devices."""
  rows = len(examples.target)
  position = global_positions(rows, axis_name)
  # [b, ...] -> [B, ...]: a partner may be on another device.
  global_examples = examples if axis_name is None else jax.lax.all_gather(examples, axis_name, tiled=True)
  partner_key, row_key = jax.random.split(key)
  # The permutation is drawn for the global batch, then restricted to this device's rows: int32 [b].
  partner = partners(len(global_examples.target), partner_key)[position]
  others = jax.tree.map(lambda x: x[partner], global_examples)
  row_keys = jax.vmap(jax.random.fold_in, (None, 0))(row_key, position)
  return Examples(*jax.vmap(mixing)(examples.image, examples.target, others.image, others.target, row_keys))


def _averaged(state: TrainState, decay: float) -> tuple[Tree, Tree]:
  """Returns the moving averages after a step; in early steps the decay is smaller, (1 + t) / (10 + t) at step t.

  The smaller decay reduces the weight of the initial parameters.
  """
  taken = state.step.astype(jnp.float32)
  weight = 1 - jnp.minimum(decay, (1 + taken) / (10 + taken))
  params, stats = state.average
  latest = {name: state.params[name] for name in params}, {name: state.stats[name] for name in stats}
  # Rounds less than optax.incremental_update, which computes (1 - weight) mean + weight new.
  return jax.tree.map(lambda mean, new: mean + weight * (new - mean), (params, stats), latest)
