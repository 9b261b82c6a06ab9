"""Two-channel network: input and features of each channel, their fusion, and layers."""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.augment import standardize
from fer_jax.layers.lbp import local_binary_pattern
from fer_jax.models import MODELS
from fer_jax.models.separable_se import SeparableSe
from fer_jax.models.two_channel import TwoChannel
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Examples
from tests.layers.variables import drawn
from tests.models.baselines.shapes import count, traced

SHAPE: dict[str, Any] = {"width": 4, "separable": (1, 1)}
SMALL = TwoChannel(**SHAPE)
ONE = SeparableSe(**SHAPE)
CHANNELS = ("lbp_", "image_")


class Run(NamedTuple):
  """Images, variables of SMALL, and features.

  Attributes:
    raw: Images, uint8 [B, H, W, 1].
    image: Standardised images.
    params: Parameters of SMALL.
    stats: Batch statistics of SMALL.
    features: Features of the network, by fusion coefficient.
    logits: Logits of the network, by fusion coefficient.
    channel_features: Features of a network with one channel, by prefix of the channel.
  """

  raw: np.ndarray
  image: jax.Array
  params: Any
  stats: Any
  features: dict[float, Any]
  logits: dict[float, Any]
  channel_features: dict[str, Any]


def of_channel(tree, prefix):
  return {name.removeprefix(prefix): leaf for name, leaf in tree.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def run():
  raw = np.random.default_rng(0).integers(0, 256, (3, 17, 18, 1), dtype=np.uint8)
  image = standardize(raw)
  params, stats = map(drawn, jax.eval_shape(SMALL.build(7, jnp.float32, None).init, jax.random.key(0), image))
  coefficients = (0.0, 0.3, 1.0)
  networks = {a: dataclasses.replace(SMALL, fusion=a).build(7, jnp.float32, None) for a in coefficients}
  single = ONE.build(7, jnp.float32, None)
  patterns = local_binary_pattern(raw, 8, 1.0, "uniform", outside=None).astype(jnp.float32) / 4.5 - 1
  inputs = {"lbp_": patterns, "image_": image}

  @jax.jit
  def apply(params, stats, image, inputs):
    outputs = {a: network.apply(params, stats, image)[0] for a, network in networks.items()}
    channel_features = {}
    for prefix in CHANNELS:
      variables = ({**of_channel(tree, prefix), "classifier": tree["classifier"]} for tree in (params, stats))
      channel_features[prefix] = single.apply(*variables, inputs[prefix])[0].features
    return outputs, channel_features

  outputs, channel_features = apply(params, stats, image, inputs)
  features = {a: np.asarray(output.features) for a, output in outputs.items()}
  return Run(raw, image, params, stats, features, {a: o.logits for a, o in outputs.items()}, channel_features)


def test_fusion_of_0_and_1_gives_the_features_of_one_channel(run):
  np.testing.assert_allclose(run.features[1.0], run.channel_features["lbp_"], atol=1e-6)
  np.testing.assert_allclose(run.features[0.0], run.channel_features["image_"], atol=1e-6)
  assert np.abs(run.features[0.0] - run.features[1.0]).max() > 0.1


def test_classifies_the_weighted_sum_of_the_features(run):
  expected = 0.3 * run.features[1.0] + 0.7 * run.features[0.0]
  np.testing.assert_allclose(run.features[0.3], expected, atol=1e-6)
  kernel, bias = (np.asarray(run.params["classifier"]["linear"][name]) for name in ("kernel", "bias"))
  np.testing.assert_allclose(run.logits[0.3], expected @ kernel + bias, atol=1e-4)


@pytest.mark.parametrize(("method", "largest"), [("uniform", 17), ("nri_uniform", 242), ("ror", 65535)])
def test_patterns_are_the_codes_scaled_to_minus_1_to_1(run, method, largest):
  found = TwoChannel(method=method, neighbours=16, radius=2.0).patterns(run.image)
  assert found.dtype == jnp.float32
  assert [found.min(), found.max()] == pytest.approx([-1, 1], abs=1e-6)
  codes = local_binary_pattern(run.raw, 16, 2.0, method, outside=None)
  np.testing.assert_allclose((found + 1) / 2 * largest, codes, rtol=1e-5, atol=1e-3)


def test_each_channel_has_its_own_separable_network():
  found, single = traced(TwoChannel()), traced(SeparableSe())
  assert found.network.extractors == CHANNELS
  assert list(found.network.layers) == [*found.network.hidden, "classifier"]
  for prefix in CHANNELS:
    assert [name.removeprefix(prefix) for name in found.network.hidden if name.startswith(prefix)] == [
      *single.network.hidden
    ]
    assert of_channel(found.params, prefix).keys() == set(single.network.hidden)
  assert len(found.network.blocks) == 2 * len(single.network.blocks)
  assert found.features.shape == single.features.shape
  classifier = count(single.params["classifier"])
  assert count(found.params) == 2 * (count(single.params) - classifier) + classifier
  both = traced(TwoChannel(residual=True, reduction=2, **SHAPE))
  one = traced(SeparableSe(residual=True, reduction=2, **SHAPE))
  assert both.network.hidden == tuple(prefix + name for prefix in CHANNELS for name in one.network.hidden)


def test_all_layers_use_the_dtype_and_normalise_over_the_axis():
  found = traced(SMALL, dtype=jnp.bfloat16, axis_name="devices")
  assert {dtype for _, dtype, _ in found.modules} == {jnp.bfloat16}
  assert {axis for kind, _, axis in found.modules if kind.__name__ == "BatchNorm"} == {"devices"}
  assert {name for name, output in found.outputs.items() if output.dtype == jnp.float32} == {"classifier"}
  assert found.features.dtype == jnp.bfloat16


def test_dropout_is_applied_before_the_classifier(run):
  linear = {"kernel": jnp.eye(16, 7), "bias": jnp.zeros(7)}
  network = TwoChannel(dropout=0.25, **SHAPE).build(7, jnp.float32, None)
  ones = jnp.ones((400, 16))
  logits, _ = network.call("classifier", {"linear": linear}, {}, (ones,), jax.random.key(0))
  assert np.mean(np.asarray(logits) == 0) == pytest.approx(0.25, abs=0.03)
  assert set(np.unique(logits.round(4))) == {np.float32(0), np.float32(1.3333)}


def test_hsic_bottleneck_trains_both_channels():
  network, params, stats, *_ = traced(SMALL)
  objective = HsicBottleneck(group="block").build(network, frozenset(network.layers), None)
  examples = Examples(jax.ShapeDtypeStruct((2, 48, 48, 1), jnp.float32), jax.ShapeDtypeStruct((2, 7), jnp.float32))
  output = jax.eval_shape(objective, params, stats, examples, jax.random.key(0))
  chex.assert_trees_all_equal_shapes(output.gradients, params)


def test_is_registered():
  assert MODELS["two_channel"] is TwoChannel


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"fusion": -0.1}, "model.fusion=-0.1: expected a coefficient, 0 <= fusion <= 1"),
    ({"fusion": 1.5}, "model.fusion=1.5"),
    ({"method": "var"}, "model.method='var': expected one of default, ror"),
    ({"neighbours": 25}, "model.neighbours=25: expected 2 to 24"),
    ({"radius": 0.0}, "model.radius=0.0: expected a number of pixels"),
    ({"width": 0}, "model.width=0"),
  ],
)
def test_rejects_invalid_settings(change, message):
  with pytest.raises(ValueError, match=message):
    TwoChannel(**change)
