"""Objectives compute gradients from a batch. `OBJECTIVES` maps a phase's `objective.name` to a settings class."""

from typing import Protocol

from fer_jax.models.network import Network, Tree
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Objective


class ObjectiveSettings(Protocol):
  """Hyper-parameters of an objective: a frozen dataclass whose fields are the keys of `phase.objective`."""

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective.

    Args:
      network: Network to train.
      trainable: Names of the layers that are trained; the others are frozen and run as in evaluation.
      axis_name: Mapped axis of devices that hold the global batch; None on one device.

    Raises:
      ValueError: The objective does not fit the network.
    """

  def statistics(self, features: int, classes: int) -> Tree:
    """Returns the initial state that the objective keeps between steps.

    Args:
      features: Number of features D that the classifier reads.
      classes: Number of classes K.

    Returns:
      Arrays by name, stored among the batch statistics under names that no layer has; {} for a stateless objective.
    """


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {"backprop": Backprop, "hsic_bottleneck": HsicBottleneck}
