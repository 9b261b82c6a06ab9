"""Network: taps, frozen layers, dropout, and initial parameters that depend only on a layer's name."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from fer_jax.models.network import Network


class Layer(nn.Module):
  features: int
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(self.features)(x))
    return nn.Dropout(self.dropout, deterministic=not train)(x)


def walk(apply, image):
  x = image.reshape(image.shape[0], -1)
  x = apply("two", apply("one", x))
  return apply("head", x), x


@pytest.fixture
def network():
  layers = {"one": Layer(5, dropout=0.5), "two": Layer(4), "head": Layer(3)}
  return Network(layers, walk, (("one",), ("two",)), "head")


@pytest.fixture
def image():
  return jax.random.normal(jax.random.key(0), (6, 2, 2, 1))


def test_taps_are_the_outputs_of_hidden_layers_in_order(network, image):
  params, stats = network.init(jax.random.key(1), image)
  outputs, _ = network.apply(params, stats, image, taps=True)
  assert [tap.shape for tap in outputs.taps] == [(6, 5), (6, 4)]
  np.testing.assert_array_equal(outputs.taps[-1], outputs.features)
  assert network.apply(params, stats, image)[0].taps == ()


def test_initial_parameters_of_a_layer_depend_only_on_its_name(network, image):
  layers = {"extra": Layer(4), **network.layers}

  def longer_walk(apply, x):
    logits, features = walk(apply, x)
    apply("extra", features)
    return logits, features

  one, _ = network.init(jax.random.key(1), image)
  two, _ = Network(layers, longer_walk, (("one",), ("two", "extra")), "head").init(jax.random.key(1), image)
  chex.assert_trees_all_equal({k: two[k] for k in one}, one)


def test_frozen_layers_run_in_evaluation_mode(network, image):
  params, stats = network.init(jax.random.key(1), image)
  _, all_trainable = network.apply(params, stats, image, key=jax.random.key(2))
  _, one_trainable = network.apply(params, stats, image, key=jax.random.key(2), trainable=frozenset({"two"}))
  changed = {k: not np.array_equal(*map(lambda s: s[k]["BatchNorm_0"]["mean"], (one_trainable, stats))) for k in stats}
  assert changed == {"one": False, "two": True, "head": False}
  assert all(
    not np.array_equal(all_trainable[k]["BatchNorm_0"]["mean"], stats[k]["BatchNorm_0"]["mean"]) for k in stats
  )


def test_dropout_depends_on_the_key_and_is_off_in_evaluation(network, image):
  params, stats = network.init(jax.random.key(1), image)
  run = lambda key: network.apply(params, stats, image, key=key)[0].logits  # noqa: E731
  np.testing.assert_array_equal(run(jax.random.key(2)), run(jax.random.key(2)))
  assert not np.array_equal(run(jax.random.key(2)), run(jax.random.key(3)))
  np.testing.assert_array_equal(run(None), run(None))
