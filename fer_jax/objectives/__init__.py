"""Objectives compute gradients from a batch. `OBJECTIVES` maps a phase's `objective.name` to a settings class."""

from typing import Protocol

import jax

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

  def initial(
    self, network: Network, variables: tuple[Tree, Tree], image: jax.Array, key: jax.Array
  ) -> tuple[Tree, Tree]:
    """Returns the initial variables of the network together with those that the objective itself needs.

    Args:
      network: Network to train.
      variables: Its initial (params, stats).
      image: Array of shape [B, H, W, C], of which only the shape and dtype matter.
      key: Random key.

    Returns:
      (params, stats). Parameters are added to those of the layer that they are trained with; state that changes from
      step to step is added to the batch statistics, under names that no layer has.
    """


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {"backprop": Backprop, "hsic_bottleneck": HsicBottleneck}
