"""Units and groups of local learning, on a dense network of two blocks."""

import jax
import jax.numpy as jnp
import pytest

from fer_jax.models.hsic_dense import HsicDense
from fer_jax.objectives.local_units import LocalUnits

SHAPE = (2, 16, 16, 1)
NETWORK = HsicDense(blocks=2, convs=2, growth=4, stem=6, transition=5, pyramid=5).build(3, jnp.float32, None)
ALL = frozenset(NETWORK.layers)


@pytest.mark.parametrize(
  ("group", "ends"),
  [
    ("network", ["pyramid_level1"]),
    ("block", ["block1_lateral", "block2_lateral", "pyramid_level1"]),
    (
      "triple",
      ["block1_conv2", "block1_lateral", "block2_conv2", "block2_lateral", "pyramid_level1"],
    ),
    ("pair", ["block1_conv1", "block1_lateral", "block2_conv1", "block2_lateral", "pyramid_level1"]),
    ("layer", NETWORK.hidden),
  ],
)
def test_groups_end_after_their_last_layer(group, ends):
  assert LocalUnits.of(NETWORK, ALL, "layer", group).closes_group == set(ends)


@pytest.mark.parametrize(
  ("unit", "reached"),
  [
    ("layer", []),
    ("pair", ["block1_conv2"]),
    ("block", ["block1_stem", "block1_conv1", "block1_conv2"]),
  ],
)
def test_a_loss_reaches_the_layers_of_its_unit(unit, reached):
  units = LocalUnits.of(NETWORK, ALL, unit, "block")
  others = [name for name in NETWORK.hidden if name != "block1_lateral"]
  assert [name for name in others if units.reaches(name, "block1_lateral")] == reached


def test_layers_that_feed_their_unit_need_no_loss():
  params, stats = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros(SHAPE))
  image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
  with_losses = {
    unit: sorted(set(NETWORK.hidden) - LocalUnits.of(NETWORK, ALL, unit, "block").without_loss(params, stats, image))
    for unit in ("layer", "pair", "block")
  }
  # The levels of the pyramid do not read each other.
  pyramid = ["pyramid_level1", "pyramid_level2"]
  assert with_losses == {
    "layer": sorted(NETWORK.hidden),
    "pair": ["block1_conv1", "block1_lateral", "block2_conv1", "block2_lateral", *pyramid],
    "block": ["block1_lateral", "block2_lateral", *pyramid],
  }


def test_a_frozen_reader_leaves_a_layer_its_own_loss():
  params, stats = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros(SHAPE))
  units = LocalUnits.of(NETWORK, ALL - {"block1_lateral"}, "pair", "block")
  without = units.without_loss(params, stats, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
  assert "block1_conv2" not in without


def test_the_last_blocks_can_belong_to_the_classifier():
  units = LocalUnits.of(NETWORK, ALL, "block", "block", classifier_blocks=1)
  assert units.last_unit == {"pyramid_level1", "pyramid_level2"}
  assert units.closes_group == {"block1_lateral", "block2_lateral"}
