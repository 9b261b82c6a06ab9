"""The structure of local learning: units, which share the gradients of their losses, and groups, computed together."""

import dataclasses
import sys
from collections.abc import Mapping

import jax

from fer_jax.models.network import Network, Tree

# Number of consecutive layers of a block in a unit or group; "block" and "network" have no limit.
_SIZES = {"layer": 1, "pair": 2, "triple": 3}
GROUPS = ("network", "block", "triple", "pair", "layer")
UNITS = ("layer", "pair", "block")
# Groups that contain whole units.
_GROUPS_OF_UNIT = {"layer": GROUPS, "pair": ("network", "block", "pair"), "block": ("network", "block")}


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

  def without_loss(self, params: Tree, stats: Tree, image: jax.Array) -> frozenset[str]:
    """Returns the names of the layers whose output another layer of their unit reads.

    Args:
      params: Parameters of all layers.
      stats: Batch statistics of all layers.
      image: Array of shape [B, H, W, C], of which only the shape and dtype matter.
    """
    read: set[str] = set()

    def walk(params: Tree, stats: Tree, image: jax.Array) -> jax.Array:
      outputs: dict[str, jax.Array] = {}

      def apply(name: str, *inputs: jax.Array) -> jax.Array:
        read.update(
          source for source, x in outputs.items() if self.reaches(source, name) and any(x is each for each in inputs)
        )
        outputs[name], _ = self.network.call(name, params[name], stats[name], inputs, None)
        return outputs[name]

      return self.network.walk(apply, image)[0]

    jax.eval_shape(walk, params, stats, image)
    return frozenset(read)


def _parts(blocks: list[list[str]], kind: str) -> list[list[str]]:
  """Returns the layers of all blocks in parts of a kind of unit or group."""
  if kind == "network":
    blocks = [[name for block in blocks for name in block]]
  size = _SIZES.get(kind, sys.maxsize)
  return [block[i : i + size] for block in blocks for i in range(0, len(block), size)]
