"""Bilinear network: parameter counts, shapes, and features compared with the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.bilinear import Bilinear
from fer_jax.models.resnet import ResNet
from tests.models.baselines.shapes import count, image_of, imagenet_parameters, traced

EXTRACTOR = 21_797_672 - 513 * 1000  # published number of parameters of ResNet-34, without its classifier


@pytest.mark.parametrize(("shared", "extractors"), [(False, 2), (True, 1)])
def test_has_the_parameters_of_a_resnet34_per_extractor(shared, extractors):
  assert imagenet_parameters(Bilinear(shared=shared)) == extractors * EXTRACTOR + (512 * 512 + 1) * 1000


@pytest.mark.parametrize(("size", "channels", "stem"), [(224, 3, "imagenet"), (224, 1, "imagenet"), (48, 1, "small")])
def test_accepts_images_of_224_and_48_pixels_in_colour_and_grey(size, channels, stem):
  found = traced(Bilinear(stem=stem), size, channels)
  assert found.features.shape == (2, 512 * 512)
  assert found.outputs["classifier"].shape == (2, 7)


@pytest.mark.parametrize("shared", [False, True])
def test_features_match_the_equations(shared):
  settings = Bilinear(18, "small", 4, shared)
  network = settings.build(7, jnp.float32, None)
  image = jax.random.normal(jax.random.key(0), (3, 16, 16, 1))
  params, stats = network.init(jax.random.key(1), image)
  outputs, _ = network.apply(params, stats, image)
  feature_maps = []
  for prefix in network.extractors:
    walk = ResNet(18, "small", width=4).extractor(jnp.float32, None, prefix).walk
    apply = lambda name, *x: network.call(name, params[name], stats[name], x, None)[0]  # noqa: E731
    feature_maps.append(np.asarray(walk(apply, image), np.float64).reshape(3, -1, 32))
  m = np.einsum("nlc,nld->ncd", feature_maps[0], feature_maps[-1]).reshape(3, -1)  # eq. 2
  y = np.sign(m) * np.sqrt(np.abs(m))  # eq. 5
  z = y / np.linalg.norm(y, axis=1, keepdims=True)  # eq. 6
  np.testing.assert_allclose(outputs.features, z, atol=2e-3)
  if shared:
    square = np.asarray(outputs.features).reshape(3, 32, 32)
    np.testing.assert_allclose(square, square.swapaxes(1, 2), atol=1e-6)
  else:
    assert not np.allclose(feature_maps[0], feature_maps[1])


def test_all_hidden_layers_belong_to_an_extractor():
  network = Bilinear(18).build(7, jnp.float32, None)
  a, b = ([name.removeprefix(p) for name in network.hidden if name.startswith(p)] for p in network.extractors)
  assert a == b == list(ResNet(18).build(7, jnp.float32, None).hidden)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), image_of(48, 1))
  assert set(params) == {*network.hidden, network.classifier}
  assert count(params["classifier"]) == (512 * 512 + 1) * 7


@pytest.mark.parametrize(("change", "key"), [({"depth": 35}, "model.depth"), ({"stem": "large"}, "model.stem")])
def test_rejects_invalid_settings(change, key):
  with pytest.raises(ValueError, match=key):
    Bilinear(**change)
