import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.baselines import xception
from fer_jax.models.baselines.xception import SeparableModule, Xception
from tests.layers.variables import drawn, random_variables
from tests.models.baselines.shapes import count, imagenet_parameters, traced


def test_has_the_parameter_and_statistics_counts_of_keras():
  found = traced(Xception("imagenet"), 299, 3, 1000)
  assert (count(found.params), count(found.stats)) == (22_910_480 - 54_528, 54_528)
  assert imagenet_parameters(Xception()) == 22_910_480 - 54_528


def test_output_shapes_match_the_paper_and_end_at_3x3_for_faces():
  sides = [output.shape[1] for output in traced(Xception("imagenet"), 299, 3, 1000).outputs.values()][:-1]
  assert sides == [149, 147, 74, 37, *[19] * 9, 10, 10, 10]
  found = traced(Xception())
  assert [output.shape[1] for output in found.outputs.values()][:-1] == [46, 44, 22, 11, *[6] * 9, 3, 3, 3]
  channels = [output.shape[-1] for output in found.outputs.values()]
  assert channels == [32, 64, 128, 256, *[728] * 9, 1024, 1536, 2048, 7]


def test_width_scales_all_numbers_of_channels():
  channels = [output.shape[-1] for output in traced(Xception(width=8)).outputs.values()]
  assert channels == [8, 16, 32, 64, *[182] * 9, 256, 384, 512, 7]


@pytest.mark.parametrize("rectify_first", [True, False])
def test_module_adds_a_branch_of_the_rectified_input(rectify_first):
  module = SeparableModule((5, 5), rectify_first=rectify_first)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
  variables = random_variables(module, x)
  branch = jax.jit(lambda x: module.apply(variables, x, train=False) - x)
  assert np.allclose(branch(x), branch(jax.nn.relu(x)), atol=1e-5) == rectify_first
  assert np.abs(branch(x)).max() > 0.1


def test_module_does_not_rectify_its_sum():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
  for halve in (False, True):
    module = SeparableModule((5, 5), halve)
    assert module.apply(random_variables(module, x), x, train=False).min() < -0.1


def test_only_the_first_module_does_not_rectify_its_input():
  layers = traced(Xception()).network.layers
  modules = {name: layer for name, layer in layers.items() if isinstance(layer, SeparableModule)}
  assert [name for name, layer in modules.items() if not layer.rectify_first] == ["entry1"]
  assert [name for name, layer in modules.items() if layer.halve] == ["entry1", "entry2", "entry3", "exit"]


def test_logits_of_two_images_are_finite_and_different(monkeypatch):
  monkeypatch.setattr(
    xception, "MIDDLE", xception.MIDDLE[:1]
  )  # one middle module, because all would take long to compile
  network = Xception(width=2).build(7, jnp.float32, None)
  image = jax.random.normal(jax.random.key(0), (2, 48, 48, 1))
  params, stats = drawn(jax.eval_shape(network.init, jax.random.key(0), image))
  logits = jax.jit(network.apply)(params, stats, image)[0].logits
  assert np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_rejects_a_width_of_zero():
  with pytest.raises(ValueError, match=r"^model\.width=0: expected a number of channels, 1 or more"):
    Xception(width=0)
