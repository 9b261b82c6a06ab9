"""Back-propagation of a loss of the logits, and optionally of the features, through all trainable layers."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.kernels.ordering import depend_on
from fer_jax.losses import LOSSES, center
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Network, Outputs, Tree
from fer_jax.objectives.checkpointing import checkpointed_gradients
from fer_jax.objectives.objective import (
  Examples,
  Objective,
  ObjectiveOutput,
  count_correct,
  global_rows,
  smoothed,
  sum_over_devices,
)

_ARRAYS = ("logits", "target")  # parameters of a loss that are no hyper-parameters
CENTERS = "center_loss"  # key of the centres among the batch statistics; no layer has this name


@dataclasses.dataclass(frozen=True)
class Backprop:
  """Hyper-parameters of a loss of the logits whose gradient is back-propagated through the whole network.

  The loss is the mean over the rows of the global batch. With class weights it is the sum of the weighted losses over
  the number of rows, not over the sum of the weights.

  Attributes:
    loss: Name of the loss: "cross_entropy", "focal" (with the softmax, arXiv:1708.02002), "focal_one_vs_rest" (eq. 4 of
      the CA-ResNet paper) or "focal_sigmoid" (the same sum with a sigmoid of each logit).
    gamma: Focusing exponent of the focal losses: the larger, the smaller the weight of well-classified rows; 0 is the
      cross-entropy.
    alpha: Weight of the true class in "focal_one_vs_rest" and "focal_sigmoid", in [0, 1]; the other classes have
      1 - alpha.
    label_smoothing: Weight of the uniform distribution in the target, in [0, 1].
    class_weights: One weight per class, or () for none. The loss of a row is multiplied by sum_k target_k weight_k,
      with the target before label smoothing. `losses.class_weights` computes weights from class counts.
    center_weight: Weight of the centre loss of the features, averaged over the rows; 0 disables it. Wen et al. 2016
      (`losses.center`) use 0.003. The centres are initialised to zero and stored among the batch statistics.
    center_rate: Step size with which the centres follow the features, in [0, 1].
    checkpoint: Whether to keep only the activations that leave a block of the network, and to compute the others again
      in the backward pass, which saves memory and costs a forward pass (`objectives.checkpointing`).
    accumulation: Number of parts of a device's rows whose gradients are computed in turn and added, which saves memory.
      Batch normalisation uses the statistics of a part.
  """

  loss: str = "cross_entropy"
  gamma: float = 2.0
  alpha: float = 0.25
  label_smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()
  center_weight: float = 0.0
  center_rate: float = 0.5
  checkpoint: bool = False
  accumulation: int = 1

  def __post_init__(self) -> None:
    check_choice("objective.loss", self.loss, LOSSES)
    if not 0 <= self.gamma < math.inf:
      raise ValueError(f"objective.gamma={self.gamma}: expected a number, 0 or more")
    if not 0 <= self.center_weight < math.inf:
      raise ValueError(f"objective.center_weight={self.center_weight}: expected a number, 0 or more")
    if self.accumulation < 1:
      raise ValueError(f"objective.accumulation={self.accumulation}: expected an integer, 1 or more")
    for field in ("alpha", "label_smoothing", "center_rate"):
      if not 0 <= getattr(self, field) <= 1:
        raise ValueError(f"objective.{field}={getattr(self, field)}: expected a number, 0 to 1")
    if self.class_weights and not (
      all(0 <= weight < math.inf for weight in self.class_weights) and any(self.class_weights)
    ):
      raise ValueError(f"objective.class_weights={self.class_weights}: expected numbers, 0 or more, not all of them 0")

  def initial(
    self, network: Network, variables: tuple[Tree, Tree], image: jax.Array, key: jax.Array
  ) -> tuple[Tree, Tree]:
    """Returns the variables and, with a centre loss, centres of zero; see `ObjectiveSettings.initial`."""
    del key
    params, stats = variables
    if not self.center_weight:
      return params, stats
    outputs, _ = jax.eval_shape(network.apply, params, stats, image)
    shape = outputs.logits.shape[-1], outputs.features.shape[-1]
    return params, {**stats, CENTERS: {"centers": jnp.zeros(shape, jnp.float32)}}

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective; see `ObjectiveSettings.build` for the arguments.

    Raises:
      ValueError: There are class weights, but not exactly one for each class of the network.
    """
    self._check_classes(network)

    def objective(params: Tree, stats: Tree, batch: Examples, key: jax.Array) -> ObjectiveOutput:
      # Losses are scaled by 1 / global batch size, so that sums over devices and over parts are means over the global
      # batch.
      rows = global_rows(batch.image.shape[0], axis_name)
      centers = stats[CENTERS]["centers"] if self.center_weight else None
      sums: Any = None
      gradients: Tree = {}
      for part, examples in enumerate(_split(batch, self.accumulation)):

        def loss_of(outputs: Outputs, examples: Examples = examples) -> tuple[jax.Array, dict[str, Any]]:
          loss = jnp.sum(self._losses(outputs.logits, examples.target)) / rows
          found: dict[str, Any] = {"correct": count_correct(outputs.logits, examples.target)}
          if centers is not None:
            away = jnp.sum(center.center_loss(outputs.features, examples.target, centers)) / rows
            loss += self.center_weight * away
            # Differences to the centres, float32 [K, D], and numbers of rows, float32 [K].
            found |= {"away": away, "centers": center.center_sums(outputs.features, examples.target, centers)}
          return loss, {"loss": loss, **found}

        # A part's forward pass waits for the gradients of the one before, so that only one has its activations alive.
        waiting = depend_on(params, *jax.tree.leaves(gradients))
        part_key = jax.random.fold_in(key, part) if part else key
        found, of_part, stats = self._gradients(network, waiting, stats, examples.image, part_key, trainable, loss_of)
        sums, gradients = (found, of_part) if not part else jax.tree.map(jnp.add, (sums, gradients), (found, of_part))
      gradients, sums = sum_over_devices((gradients, sums), axis_name)
      metrics = {"loss": sums["loss"], "accuracy": sums["correct"] / rows}
      if centers is not None:
        metrics["center_loss"] = sums["away"]
        offsets, counts = sums["centers"]
        centers = center.updated_centers(centers, offsets, counts, self.center_rate)
        stats = {**stats, CENTERS: {"centers": centers}}
      return ObjectiveOutput(gradients, stats, metrics)

    return objective

  def _gradients(
    self,
    network: Network,
    params: Tree,
    stats: Tree,
    image: jax.Array,
    key: jax.Array,
    trainable: frozenset[str],
    loss_of: Callable[[Outputs], tuple[jax.Array, dict[str, Any]]],
  ) -> tuple[dict[str, Any], Tree, Tree]:
    """Returns the second result of `loss_of`, the gradients of the trainable layers, and the new batch statistics."""
    if self.checkpoint:
      return checkpointed_gradients(network, params, stats, image, key, trainable, loss_of)

    def loss_and_state(trained: Tree) -> tuple[jax.Array, tuple[dict[str, Any], Tree]]:
      outputs, new_stats = network.apply({**params, **trained}, stats, image, key=key, trainable=trainable)
      loss, found = loss_of(outputs)
      return loss, (found, new_stats)

    # Only the trainable layers are differentiated; the others are constants.
    trained = {name: params[name] for name in params if name in trainable}
    gradients, (found, new_stats) = jax.grad(loss_and_state, has_aux=True)(trained)
    return found, gradients, new_stats

  def _check_classes(self, network: Network) -> None:
    if not self.class_weights:
      return
    given, classes = len(self.class_weights), network.layers[network.classifier].num_classes
    if given != classes:
      raise ValueError(f"objective.class_weights: {given} of them, expected {classes} numbers, one per class, or none")

  def _losses(self, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the loss of each row, float32 [b], including its class weight."""
    loss = LOSSES[self.loss]
    options = {name: getattr(self, name) for name in inspect.signature(loss).parameters if name not in _ARRAYS}
    losses = loss(logits, smoothed(target, self.label_smoothing), **options)
    if self.class_weights:
      # The unsmoothed target: label smoothing does not change the weight of a row. [b, K] * [1, K] -> [b]
      losses *= jnp.sum(target * jnp.asarray(self.class_weights, jnp.float32)[None], axis=-1)
    return losses


def _split(batch: Examples, parts: int) -> list[Examples]:
  """Splits the rows of a device into parts whose sizes differ by at most one row."""
  rows = batch.image.shape[0]
  if parts > rows:
    raise ValueError(f"objective.accumulation={parts}: a device has {rows} rows of the batch; give this number or less")
  ends = [i * rows // parts for i in range(parts + 1)]
  return [jax.tree.map(lambda x, i=i, j=j: x[i:j], batch) for i, j in itertools.pairwise(ends)]
