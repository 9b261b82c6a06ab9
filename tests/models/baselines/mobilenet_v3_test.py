import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.baselines.mobilenet_v3 import InvertedResidual, MobileNetV3, Row, multiple_of_eight
from tests.layers.variables import random_variables
from tests.models.baselines.shapes import imagenet_parameters, traced


@pytest.mark.parametrize(("size", "published"), [("large", 5_483_032), ("small", 2_542_856)])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_has_the_parameter_count_of_torchvision(size, published, stem):
  assert imagenet_parameters(MobileNetV3(size, stem)) == published


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize(("stem", "side", "last"), [("small", 48, 3), ("imagenet", 224, 7)])
def test_stages_begin_where_the_resolution_is_halved(size, stem, side, last):
  found = traced(MobileNetV3(size, stem), side)
  sides = [{found.outputs[name].shape[1] for name in block} for block in found.network.blocks[:-1]]
  assert all(len(stage) == 1 for stage in sides)
  lengths = [stage.pop() for stage in sides]
  assert lengths == sorted(lengths, reverse=True)
  assert lengths[-1] == last


def test_channels_round_to_a_multiple_of_eight_and_lose_at_most_a_tenth():
  for channels in np.arange(1, 400, 0.5):
    rounded = multiple_of_eight(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)
    nearest = max(8, 8 * np.floor(channels / 8 + 0.5))
    assert rounded == nearest or (nearest < 0.9 * channels and rounded == nearest + 8)


@pytest.mark.parametrize(("stride", "features", "added"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_input_is_added_if_the_shapes_agree(stride, features, added):
  block = InvertedResidual(Row(3, 16, features, True, True, stride))
  x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
  variables = random_variables(block, x)
  variables["params"]["project"]["norm"] = {"scale": jnp.zeros(features), "bias": jnp.zeros(features)}
  found = block.apply(variables, x, train=False)
  np.testing.assert_array_equal(found, x if added else jnp.zeros_like(found))
