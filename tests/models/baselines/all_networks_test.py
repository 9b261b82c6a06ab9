"""Properties of all networks of the ImageNet families: layers, shapes, dtypes, statistics and error messages."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.convolution import Conv
from fer_jax.models import MODELS
from fer_jax.models.baselines.alexnet import AlexNet
from fer_jax.models.baselines.bn_inception import BnInception
from fer_jax.models.baselines.densenet import DenseNet
from fer_jax.models.baselines.mini_xception import MiniXception
from fer_jax.models.baselines.mobilenet_v3 import MobileNetV3
from fer_jax.models.baselines.vgg import Vgg
from fer_jax.models.resnet import ResNet
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Examples
from tests.layers.variables import drawn
from tests.models.baselines.shapes import image_of, traced

NAMES = ("resnet", "alexnet", "bn_inception", "vgg", "densenet", "mobilenet_v3", "mini_xception", "xception")
NETWORKS = {
  **{name: MODELS[name]() for name in NAMES},
  "resnet50 imagenet": ResNet(50, "imagenet", squeeze_excite=True),
  "bn_inception imagenet": BnInception("imagenet"),
  "vgg13 with normalisation": Vgg(13, batch_norm=True),
  "mobilenet_v3 small imagenet": MobileNetV3("small", "imagenet"),
}
# Small, because they are compiled and run.
SMALL = {
  "resnet": ResNet(width=4, squeeze_excite=True),
  "alexnet": AlexNet(hidden=8),
  "vgg": Vgg(13, width=4, hidden=8),
  "vgg with normalisation": Vgg(13, batch_norm=True, width=4, hidden=8),
  "densenet": DenseNet((2, 1, 2), growth=4),
  "mobilenet_v3": MobileNetV3("small", width=0.1),
  "mini_xception": MiniXception(),
}

every_network = pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)


@every_network
def test_layers_are_applied_in_their_listed_order(settings):
  found = traced(settings)
  assert list(found.outputs) == list(found.network.layers) == [*found.network.hidden, found.network.classifier]
  assert all(found.network.blocks)


@every_network
def test_accepts_images_of_48_pixels(settings):
  found = traced(settings)
  logits = found.outputs[found.network.classifier]
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
  assert (len(found.features.shape), found.features.shape[0]) == (2, 2)
  assert all(min(output.shape) > 0 for output in found.outputs.values())


@pytest.mark.parametrize("name", sorted({*NAMES} - {"vgg"}))
def test_last_feature_map_of_the_default_is_3x3_or_larger(name):
  feature_maps = [output for output in traced(MODELS[name]()).outputs.values() if len(output.shape) == 4]
  assert feature_maps[-1].shape[1] >= 3


@pytest.mark.parametrize("name", NAMES)
def test_all_layers_use_the_dtype_and_normalise_over_the_axis(name):
  found = traced(MODELS[name](), dtype=jnp.bfloat16, axis_name="devices")
  modules = {(Conv, jnp.bfloat16, None), (nn.Dense, jnp.bfloat16, None), (nn.BatchNorm, jnp.bfloat16, "devices")}
  assert found.modules <= modules
  assert (Conv, jnp.bfloat16, None) in found.modules
  assert {leaf.dtype for leaf in jax.tree.leaves((found.params, found.stats))} == {jnp.dtype("float32")}
  dtypes = {name: output.dtype for name, output in found.outputs.items()}
  assert dtypes.pop(found.network.classifier) == jnp.float32
  assert set(dtypes.values()) == {jnp.dtype("bfloat16")}


@pytest.fixture(scope="module", params=SMALL.values(), ids=SMALL)
def outputs(request):
  """Returns a small network, its statistics, and its outputs for two images in evaluation and in training."""
  network, params, stats, *_ = traced(request.param)
  params, stats = drawn(params), drawn(stats)

  @jax.jit
  def run(params, stats, image):
    evaluated = network.apply(params, stats, image)
    trained = network.apply(params, stats, image, key=jax.random.key(2))
    return evaluated, trained

  return network, stats, *run(params, stats, jax.random.normal(jax.random.key(0), (2, 48, 48, 1)))


def test_logits_of_two_images_are_finite_and_different(outputs):
  _, _, (evaluated, _), (trained, _) = outputs
  for each in (evaluated, trained):
    chex.assert_tree_all_finite(each)
    assert np.abs(each.logits[0] - each.logits[1]).max() > 1e-6


def test_statistics_change_only_in_training(outputs):
  network, stats, (_, evaluated), (_, trained) = outputs
  chex.assert_trees_all_equal(evaluated, stats)
  for name in network.layers:
    before, after = jax.tree.leaves(stats[name]), jax.tree.leaves(trained[name])
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True)), name


@pytest.mark.parametrize(("name", "group"), [("mini_xception", "layer"), ("resnet", "block"), ("densenet", "layer")])
def test_hsic_bottleneck_trains_every_hidden_layer(name, group):
  network, params, stats, *_ = traced(SMALL[name])
  objective = HsicBottleneck(group=group).build(network, frozenset(network.layers), None)
  batch = Examples(image_of(48, 1), jax.ShapeDtypeStruct((2, 7), jnp.float32))
  output = jax.eval_shape(objective, params, stats, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(output.gradients, params)
  assert {f"hsic_label/{layer}" for layer in network.hidden} <= output.metrics.keys()


@pytest.mark.parametrize(
  "settings",
  [
    functools.partial(ResNet, 20),
    functools.partial(Vgg, 20),
    functools.partial(MobileNetV3, "tiny"),
    *(functools.partial(MODELS[name], stem="big") for name in NAMES if name not in ("vgg", "mini_xception")),
  ],
)
def test_rejects_unknown_choices(settings):
  with pytest.raises(ValueError, match=r"^model\.(depth=20|size='tiny'|stem='big'): expected one of "):
    settings()


@pytest.mark.parametrize("settings", [AlexNet("imagenet"), Vgg(), DenseNet(stem="imagenet")])
def test_rejects_images_that_are_too_small(settings):
  with pytest.raises(ValueError, match=r"^the image is too small: the last feature map is 0x0"):
    traced(settings, 24)
