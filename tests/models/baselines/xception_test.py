import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.baselines import xception
from fer_jax.models.baselines.xception import SeparableModule, Xception
from tests.layers.variables import drawn, random_variables
from tests.models.baselines.shapes import count, imagenet_parameters, traced


def test_has_as_many_parameters_and_statistics_as_keras_counts():
  found = traced(Xception("imagenet"), 299, 3, 1000)
  assert (count(found.params), count(found.stats)) == (22_910_480 - 54_528, 54_528)
  assert imagenet_parameters(Xception()) == 22_910_480 - 54_528


def test_the_maps_are_the_paper_s_and_those_of_a_face_end_at_3x3():
  sides = [output.shape[1] for output in traced(Xception("imagenet"), 299, 3, 1000).outputs.values()][:-1]
  assert sides == [149, 147, 74, 37, *[19] * 9, 10, 10, 10]
  found = traced(Xception())
  assert [output.shape[1] for output in found.outputs.values()][:-1] == [46, 44, 22, 11, *[6] * 9, 3, 3, 3]
  channels = [output.shape[-1] for output in found.outputs.values()]
  assert channels == [32, 64, 128, 256, *[728] * 9, 1024, 1536, 2048, 7]


def test_the_width_divides_every_number_of_channels():
  channels = [output.shape[-1] for output in traced(Xception(width=8)).outputs.values()]
  assert channels == [8, 16, 32, 64, *[182] * 9, 256, 384, 512, 7]


@pytest.mark.parametrize("rectify_first", [True, False])
def test_a_module_adds_what_it_makes_of_the_rectified_input(rectify_first):
  module = SeparableModule((5, 5), rectify_first=rectify_first)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
  variables = random_variables(module, x)
  branch = jax.jit(lambda x: module.apply(variables, x, train=False) - x)
  assert np.allclose(branch(x), branch(jax.nn.relu(x)), atol=1e-5) == rectify_first
  assert np.abs(branch(x)).max() > 0.1


def test_nothing_rectifies_a_module_s_sum():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
  for halve in (False, True):
    module = SeparableModule((5, 5), halve)
    assert module.apply(random_variables(module, x), x, train=False).min() < -0.1


def test_the_first_module_alone_takes_a_rectified_input_as_it_is():
  layers = traced(Xception()).network.layers
  modules = {name: layer for name, layer in layers.items() if isinstance(layer, SeparableModule)}
  assert [name for name, layer in modules.items() if not layer.rectify_first] == ["entry1"]
  assert [name for name, layer in modules.items() if layer.halve] == ["entry1", "entry2", "entry3", "exit"]


def test_two_faces_get_finite_logits_of_their_own(monkeypatch):
  monkeypatch.setattr(xception, "MIDDLE", xception.MIDDLE[:1])  # the others take their time to compile
  network = Xception(width=2).build(7, jnp.float32, None)
  image = jax.random.normal(jax.random.key(0), (2, 48, 48, 1))
  params, stats = drawn(jax.eval_shape(network.init, jax.random.key(0), image))
  logits = jax.jit(network.apply)(params, stats, image)[0].logits
  assert np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_a_width_of_nothing_is_named():
  with pytest.raises(ValueError, match=r"^model\.width=0: expected a number of channels, 1 or more"):
    Xception(width=0)
