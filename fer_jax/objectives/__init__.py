"""How a batch becomes gradients. `OBJECTIVES` maps a phase's `objective.name` to its settings' class."""

from typing import Protocol

from fer_jax.models.network import Network, Tree
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Objective


class ObjectiveSettings(Protocol):
  """An objective's hyper-parameters: a frozen dataclass whose fields are the keys of `phase.objective`."""

  def build(self, network: Network, trainable: frozenset[str], axis_name: str | None) -> Objective:
    """Returns the objective for the layers named in `trainable`, over the devices of `axis_name`."""

  def statistics(self, features: int, classes: int) -> Tree:
    """Returns what the objective keeps from step to step, as it is at step 0, by a name that no layer has."""


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {"backprop": Backprop, "hsic_bottleneck": HsicBottleneck}
