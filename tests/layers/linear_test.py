import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.linear import LinearClassifier, LinearUnit

X = jax.random.normal(jax.random.key(0), (3, 50))


@pytest.mark.parametrize(
  ("layer", "activation"),
  [(LinearUnit(20, jnp.tanh, dropout=0.5), np.tanh), (LinearClassifier(20, dropout=0.5), lambda x: x)],
)
def test_dropout_applies_only_in_training(layer, activation):
  variables = layer.init(jax.random.key(1), X, train=False)
  kernel, bias = (np.asarray(variables["params"]["linear"][k], float) for k in ("kernel", "bias"))
  expected = activation(np.asarray(X, float) @ kernel + bias)
  np.testing.assert_allclose(layer.apply(variables, X, train=False), expected, atol=1e-5)

  def train(seed):
    return layer.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})

  assert np.any(train(2) != train(3))
  assert np.abs(train(2) - expected).max() > 0.01


@pytest.mark.parametrize(("layer", "dtype"), [(LinearUnit(4), jnp.bfloat16), (LinearClassifier(4), jnp.float32)])
def test_only_logits_are_float32_in_a_bfloat16_computation(layer, dtype):
  layer = layer.clone(dtype=jnp.bfloat16)
  out, variables = jax.eval_shape(functools.partial(layer.init_with_output, train=False), jax.random.key(0), X)
  assert out.dtype == dtype
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_classifier_supports_zero_initialization():
  for layer, zero in ((LinearClassifier(4), False), (LinearClassifier(4, kernel_init=jax.nn.initializers.zeros), True)):
    params = layer.init(jax.random.key(0), X, train=False)["params"]["linear"]
    assert (not np.any(params["kernel"])) == zero
    assert not np.any(params["bias"])
