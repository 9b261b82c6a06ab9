"""Units and groups of local learning, on a dense network of two blocks."""

import jax.numpy as jnp
import pytest

from fer_jax.models.hsic_dense import HsicDense
from fer_jax.objectives.local_units import LocalUnits

NETWORK = HsicDense(blocks=2, convs=2, growth=4, stem=6, transition=5, pyramid=5).build(3, jnp.float32, None)
ALL = frozenset(NETWORK.layers)


@pytest.mark.parametrize(
  ("group", "ends"),
  [
    ("network", ["pyramid_level1"]),
    ("block", ["block1_transition", "block2_lateral", "pyramid_level1"]),
    ("triple", ["block1_conv2", "block1_transition", "block2_lateral", "pyramid_level1"]),
    ("layer", NETWORK.hidden),
  ],
)
def test_groups_end_after_their_last_layer(group, ends):
  assert LocalUnits.of(NETWORK, ALL, "layer", group).closes_group == set(ends)


@pytest.mark.parametrize(
  ("unit", "reached"),
  [
    ("layer", []),
    ("block", ["block1_stem", "block1_conv1", "block1_conv2", "block1_lateral"]),
  ],
)
def test_a_loss_reaches_the_layers_of_its_unit(unit, reached):
  units = LocalUnits.of(NETWORK, ALL, unit, "block")
  others = [name for name in NETWORK.hidden if name != "block1_transition"]
  assert [name for name in others if units.reaches(name, "block1_transition")] == reached


def test_the_last_blocks_can_belong_to_the_classifier():
  units = LocalUnits.of(NETWORK, ALL, "block", "block", classifier_blocks=1)
  assert units.last_unit == {"pyramid_level1", "pyramid_level2"}
  assert units.closes_group == {"block1_transition", "block2_lateral"}
