"""Back-propagation of a loss of the logits, and optionally of the features, through all trainable layers."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp

from fer_jax.losses import LOSSES, center
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Network, Outputs, Tree
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
  """

  loss: str = "cross_entropy"
  gamma: float = 2.0
  alpha: float = 0.25
  label_smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()
  center_weight: float = 0.0
  center_rate: float = 0.5

  def __post_init__(self) -> None:
    check_choice("objective.loss", self.loss, LOSSES)
    if not 0 <= self.gamma < math.inf:
      raise ValueError(f"objective.gamma={self.gamma}: expected a number, 0 or more")
    if not 0 <= self.center_weight < math.inf:
      raise ValueError(f"objective.center_weight={self.center_weight}: expected a number, 0 or more")
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
      # Losses are scaled by 1 / global batch size, so that sums over devices are means over the global batch.
      rows = global_rows(batch.image.shape[0], axis_name)

      def loss_of(trained: Tree) -> tuple[jax.Array, tuple[Outputs, Tree, jax.Array]]:
        outputs, new_stats = network.apply({**params, **trained}, stats, batch.image, key=key, trainable=trainable)
        # float32 [b], this device's rows
        losses = self._losses(outputs.logits, batch.target)
        away = jnp.zeros(())
        if self.center_weight:
          away = jnp.sum(center.center_loss(outputs.features, batch.target, stats[CENTERS]["centers"])) / rows
        return jnp.sum(losses) / rows + self.center_weight * away, (outputs, new_stats, away)

      # Only the trainable layers are differentiated; the others are constants of `loss_of`.
      trained = {name: params[name] for name in params if name in trainable}
      (loss, (outputs, new_stats, away)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
      correct = count_correct(outputs.logits, batch.target)
      gradients, loss, correct, away = sum_over_devices((gradients, loss, correct, away), axis_name)
      metrics = {"loss": loss, "accuracy": correct / rows}
      if self.center_weight:
        metrics["center_loss"] = away
        centers = stats[CENTERS]["centers"]
        # Sums over the global batch: differences to the centres, float32 [K, D], and numbers of rows, float32 [K].
        offsets, counts = sum_over_devices(center.center_sums(outputs.features, batch.target, centers), axis_name)
        new_stats = {
          **new_stats,
          CENTERS: {"centers": center.updated_centers(centers, offsets, counts, self.center_rate)},
        }
      return ObjectiveOutput(gradients, new_stats, metrics)

    return objective

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
