"""The network of two channels: what each sees, what is made of both, and one channel as its end of the scale."""

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
SLIM = TwoChannel(**SHAPE)
ONE = SeparableSe(**SHAPE)
CHANNELS = ("lbp_", "image_")


class Run(NamedTuple):
  """Pictures, the variables of SLIM, what networks of several coefficients make of them, and one channel's features."""

  picture: np.ndarray
  image: jax.Array
  params: Any
  stats: Any
  features: dict[float, Any]
  logits: dict[float, Any]
  alone: dict[str, Any]


def of_channel(tree, prefix):
  return {name.removeprefix(prefix): leaf for name, leaf in tree.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def run():
  picture = np.random.default_rng(0).integers(0, 256, (3, 17, 18, 1), dtype=np.uint8)
  image = standardize(picture)
  params, stats = map(drawn, jax.eval_shape(SLIM.build(7, jnp.float32, None).init, jax.random.key(0), image))
  coefficients = (0.0, 0.3, 1.0)
  networks = {a: dataclasses.replace(SLIM, fusion=a).build(7, jnp.float32, None) for a in coefficients}
  single = ONE.build(7, jnp.float32, None)
  patterns = local_binary_pattern(picture, 8, 1.0, "uniform", outside=None).astype(jnp.float32) / 4.5 - 1
  seen = {"lbp_": patterns, "image_": image}

  @jax.jit
  def everything(params, stats, image, seen):
    outputs = {a: network.apply(params, stats, image)[0] for a, network in networks.items()}
    alone = {}
    for prefix in CHANNELS:
      variables = ({**of_channel(tree, prefix), "classifier": tree["classifier"]} for tree in (params, stats))
      alone[prefix] = single.apply(*variables, seen[prefix])[0].features
    return outputs, alone

  outputs, alone = everything(params, stats, image, seen)
  features = {a: np.asarray(output.features) for a, output in outputs.items()}
  return Run(picture, image, params, stats, features, {a: o.logits for a, o in outputs.items()}, alone)


def test_the_ends_of_the_scale_are_networks_of_one_channel(run):
  np.testing.assert_allclose(run.features[1.0], run.alone["lbp_"], atol=1e-6)
  np.testing.assert_allclose(run.features[0.0], run.alone["image_"], atol=1e-6)
  assert np.abs(run.features[0.0] - run.features[1.0]).max() > 0.1


def test_between_them_features_are_weighed_and_classified(run):
  expected = 0.3 * run.features[1.0] + 0.7 * run.features[0.0]
  np.testing.assert_allclose(run.features[0.3], expected, atol=1e-6)
  kernel, bias = (np.asarray(run.params["classifier"]["linear"][name]) for name in ("kernel", "bias"))
  np.testing.assert_allclose(run.logits[0.3], expected @ kernel + bias, atol=1e-4)


@pytest.mark.parametrize(("method", "largest"), [("uniform", 17), ("nri_uniform", 242), ("ror", 65535)])
def test_patterns_are_those_of_the_picture_from_minus_one_to_one(run, method, largest):
  found = TwoChannel(method=method, neighbours=16, radius=2.0).patterns(run.image)
  assert found.dtype == jnp.float32
  assert [found.min(), found.max()] == pytest.approx([-1, 1], abs=1e-6)
  codes = local_binary_pattern(run.picture, 16, 2.0, method, outside=None)
  np.testing.assert_allclose((found + 1) / 2 * largest, codes, rtol=1e-5, atol=1e-3)


def test_each_channel_has_a_separable_network_of_its_own():
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
  other = traced(TwoChannel(residual=True, reduction=2, **SHAPE))
  alone = traced(SeparableSe(residual=True, reduction=2, **SHAPE))
  assert other.network.hidden == tuple(prefix + name for prefix in CHANNELS for name in alone.network.hidden)


def test_every_layer_computes_in_the_dtype_and_normalises_over_the_axis():
  found = traced(SLIM, dtype=jnp.bfloat16, axis_name="devices")
  assert {dtype for _, dtype, _ in found.modules} == {jnp.bfloat16}
  assert {axis for kind, _, axis in found.modules if kind.__name__ == "BatchNorm"} == {"devices"}
  assert {name for name, output in found.outputs.items() if output.dtype == jnp.float32} == {"classifier"}
  assert found.features.dtype == jnp.bfloat16


def test_dropout_stands_before_the_classifier(run):
  linear = {"kernel": jnp.eye(16, 7), "bias": jnp.zeros(7)}
  network = TwoChannel(dropout=0.25, **SHAPE).build(7, jnp.float32, None)
  ones = jnp.ones((400, 16))
  logits, _ = network.call("classifier", {"linear": linear}, {}, (ones,), jax.random.key(0))
  assert np.mean(np.asarray(logits) == 0) == pytest.approx(0.25, abs=0.03)
  assert set(np.unique(logits.round(4))) == {np.float32(0), np.float32(1.3333)}


def test_both_channels_can_learn_without_back_propagation():
  network, params, stats, *_ = traced(SLIM)
  objective = HsicBottleneck(group="block").build(network, frozenset(network.layers), None)
  examples = Examples(jax.ShapeDtypeStruct((2, 48, 48, 1), jnp.float32), jax.ShapeDtypeStruct((2, 7), jnp.float32))
  learned = jax.eval_shape(objective, params, stats, examples, jax.random.key(0))
  chex.assert_trees_all_equal_shapes(learned.gradients, params)


def test_it_has_a_name():
  assert MODELS["two_channel"] is TwoChannel


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"fusion": -0.1}, "model.fusion=-0.1: expected a coefficient, 0 <= fusion <= 1"),
    ({"fusion": 1.5}, "model.fusion=1.5"),
    ({"method": "var"}, "model.method='var': expected one of default, ror"),
    ({"neighbours": 25}, "model.neighbours=25: expected 2 to 24"),
    ({"radius": 0.0}, "model.radius=0.0: expected a number of pixels"),
    ({"width": 0}, "model.width=0"),
  ],
)
def test_a_setting_that_is_none_is_named(change, said):
  with pytest.raises(ValueError, match=said):
    TwoChannel(**change)
