"""The structure of local learning: units, which share the gradients of their losses, and groups, computed together."""

import dataclasses
import sys
from collections.abc import Mapping

from fer_jax.models.network import Network

# Number of consecutive layers of a block in a unit or group; "block" and "network" have no limit.
_SIZES = {"layer": 1, "triple": 3}
GROUPS = ("network", "block", "triple", "layer")
UNITS = ("layer", "block")
# Groups that contain whole units.
_GROUPS_OF_UNIT = {"layer": GROUPS, "block": ("network", "block")}


def check_group(unit: str, group: str) -> None:
  """Raises ValueError if a group would split a unit."""
  allowed = _GROUPS_OF_UNIT[unit]
  if group not in allowed:
    raise ValueError(
      f"objective.unit={unit!r}: expected objective.group to be one of {', '.join(allowed)}, not {group!r}"
    )


@dataclasses.dataclass(frozen=True)
class LocalUnits:
  """Units and groups of the layers that have local losses.

  Attributes:
    network: Network to train.
    unit_of: Name of the first layer of each layer's unit, by layer.
    closes_group: Names of the layers after which a group is complete.
    last_unit: Names of the hidden layers that are trained together with the classifier; they have no local loss.
  """

  network: Network
  unit_of: Mapping[str, str]
  closes_group: frozenset[str]
  last_unit: frozenset[str]

  @classmethod
  def of(
    cls, network: Network, trainable: frozenset[str], unit: str, group: str, classifier_blocks: int = 0
  ) -> "LocalUnits":
    """Divides the trainable hidden layers of a network.

    Args:
      network: Network to train.
      trainable: Names of the trainable layers.
      unit: One of UNITS.
      group: One of GROUPS.
      classifier_blocks: Number of last blocks that are trained together with the classifier.
    """
    local = len(network.blocks) - classifier_blocks
    blocks = [[name for name in block if name in trainable] for block in network.blocks[:local]]
    # `network.layers` is in walk order.
    ends = {max(part, key=list(network.layers).index) for part in _parts(blocks, group)}
    return cls(
      network,
      {name: part[0] for part in _parts(blocks, unit) for name in part},
      frozenset(ends),
      frozenset(name for block in network.blocks[local:] for name in block if name in trainable),
    )

  def reaches(self, source: str, reader: str) -> bool:
    """Returns whether the loss of a layer also trains another layer that it reads: both are in the same unit."""
    return source in self.unit_of and self.unit_of[source] == self.unit_of.get(reader)


def _parts(blocks: list[list[str]], kind: str) -> list[list[str]]:
  """Returns the layers of all blocks in parts of a kind of unit or group."""
  if kind == "network":
    blocks = [[name for block in blocks for name in block]]
  size = _SIZES.get(kind, sys.maxsize)
  return [block[i : i + size] for block in blocks for i in range(0, len(block), size)]
