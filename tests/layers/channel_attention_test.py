import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.attention import AttentiveClassifier

B, D, K = 5, 24, 7


@pytest.fixture(scope="module")
def variables():
  """What training begins with."""
  return AttentiveClassifier(K).init(jax.random.key(0), jnp.zeros((1, D)), train=False)


def shapes(classifier, features):
  return jax.eval_shape(lambda: classifier.init(jax.random.key(0), features, train=False))


@functools.partial(jax.jit, static_argnums=0)
def evaluated(classifier, variables, features):
  return classifier.apply(variables, features, train=False)


@pytest.fixture
def features():
  return jnp.asarray(np.random.default_rng(0).normal(size=(B, D)), jnp.float32)


def dense(params, name, x):
  return x @ np.asarray(params[name]["kernel"], float) + np.asarray(params[name]["bias"], float)


EPSILON = 1e-5  # of the normalisation, whose statistics are mean 0 and variance 1 at first


def test_attention_is_the_identity_at_first(features, variables):
  found = evaluated(AttentiveClassifier(K), variables, features)
  plain = nn.Dense(K).apply({"params": variables["params"]["Dense_2"]}, features / np.sqrt(1 + EPSILON))
  np.testing.assert_allclose(found, plain, atol=1e-6)


def test_in_training_neither_scale_nor_offset_of_a_feature_matters(features, variables):
  train = jax.jit(lambda x: AttentiveClassifier(K).apply(variables, x, train=True, mutable=["batch_stats"])[0])
  scale = jnp.linspace(1.0, 50.0, D)[None]
  np.testing.assert_allclose(train(features * scale + 3), train(features), atol=2e-3)


def test_scores_can_be_learned_from_the_start(features, variables):
  gradient = jax.grad(lambda v: jnp.sum(evaluated(AttentiveClassifier(K), v, features) ** 2))(variables)
  assert jnp.abs(gradient["params"]["Dense_1"]["kernel"]).max() > 0


@pytest.mark.parametrize(("reduction", "hidden"), [(8, 3), (2, 12), (100, 1)])
def test_weighs_features_by_scores_between_0_and_2(features, reduction, hidden):
  classifier = AttentiveClassifier(K, reduction=reduction)
  params, stats = (shapes(classifier, features)[k] for k in ("params", "batch_stats"))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
  assert params["Dense_0"]["kernel"].shape == (D, hidden)
  stats = {"norm": {"mean": jnp.zeros(stats["norm"]["mean"].shape), "var": jnp.ones(stats["norm"]["var"].shape)}}
  exact = np.asarray(features, float) / np.sqrt(1 + EPSILON)
  exact = exact * np.asarray(params["norm"]["scale"], float) + np.asarray(params["norm"]["bias"], float)
  scores = dense(params, "Dense_1", np.maximum(dense(params, "Dense_0", exact), 0))
  expected = dense(params, "Dense_2", exact * 2 / (1 + np.exp(-scores)))
  np.testing.assert_allclose(
    evaluated(classifier, {"params": params, "batch_stats": stats}, features), expected, atol=1e-4
  )


def test_dropout_acts_in_training_alone(features, variables):
  classifier, without = AttentiveClassifier(K, dropout=0.5), AttentiveClassifier(K)
  np.testing.assert_array_equal(evaluated(classifier, variables, features), evaluated(without, variables, features))
  train = jax.jit(
    lambda key: classifier.apply(variables, features, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]
  )
  plain = jax.jit(lambda: without.apply(variables, features, train=True, mutable=["batch_stats"])[0])()
  dropped = [train(jax.random.key(seed)) for seed in (1, 2)]
  assert np.any(dropped[0] != plain)
  assert np.any(dropped[0] != dropped[1])


def test_logits_are_float32(features):
  classifier = AttentiveClassifier(K, dtype=jnp.bfloat16)
  variables = shapes(classifier, features)
  logits = jax.eval_shape(functools.partial(evaluated, classifier), variables, features.astype(jnp.bfloat16))
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_a_channel_has_one_score_for_all_its_cells():
  cells, channels = 4, 6
  classifier = AttentiveClassifier(K, cells=cells, reduction=2)
  features = jnp.asarray(np.random.default_rng(1).normal(size=(B, cells * channels)), jnp.float32)
  generator = np.random.default_rng(2)
  start = classifier.init(jax.random.key(0), features, train=False)
  params = jax.tree.map(lambda p: jnp.asarray(generator.normal(size=p.shape), jnp.float32), start["params"])
  params["norm"] = start["params"]["norm"]
  found = evaluated(classifier, {**start, "params": params}, features)
  by_cell = np.asarray(features, float).reshape(B, cells, channels) / np.sqrt(1 + EPSILON)
  scores = dense(params, "Dense_1", np.maximum(dense(params, "Dense_0", by_cell.mean(axis=1)), 0))
  weighted = by_cell * (2 / (1 + np.exp(-scores)))[:, None, :]
  np.testing.assert_allclose(found, dense(params, "Dense_2", weighted.reshape(B, -1)), rtol=1e-4, atol=1e-4)
