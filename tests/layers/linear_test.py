import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.linear import LinearClassifier, LinearUnit
from fer_jax.layers.pooling import read_out

X = jax.random.normal(jax.random.key(0), (3, 50))


@pytest.mark.parametrize(
  ("layer", "activation"),
  [(LinearUnit(20, jnp.tanh, dropout=0.5), np.tanh), (LinearClassifier(20, dropout=0.5), lambda x: x)],
)
def test_drops_inputs_in_training_alone(layer, activation):
  variables = layer.init(jax.random.key(1), X, train=False)
  kernel, bias = (np.asarray(variables["params"]["linear"][k], float) for k in ("kernel", "bias"))
  expected = activation(np.asarray(X, float) @ kernel + bias)
  np.testing.assert_allclose(layer.apply(variables, X, train=False), expected, atol=1e-5)

  def trained(seed):
    return layer.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})

  assert np.any(trained(2) != trained(3))
  assert np.abs(trained(2) - expected).max() > 0.01


@pytest.mark.parametrize(("layer", "dtype"), [(LinearUnit(4), jnp.bfloat16), (LinearClassifier(4), jnp.float32)])
def test_logits_alone_are_float32_whatever_the_computation(layer, dtype):
  layer = layer.clone(dtype=jnp.bfloat16)
  out, variables = jax.eval_shape(functools.partial(layer.init_with_output, train=False), jax.random.key(0), X)
  assert out.dtype == dtype
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_the_classifier_starts_from_zero_where_asked():
  for layer, zero in ((LinearClassifier(4), False), (LinearClassifier(4, kernel_init=jax.nn.initializers.zeros), True)):
    params = layer.init(jax.random.key(0), X, train=False)["params"]["linear"]
    assert (not np.any(params["kernel"])) == zero
    assert not np.any(params["bias"])


def test_reads_a_grid_of_cells_row_by_row():
  maps = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
  np.testing.assert_allclose(read_out(maps), maps.mean(axis=(1, 2)), rtol=1e-6)
  np.testing.assert_allclose(read_out(maps, 2)[:, :3], maps[:, :2, :2].mean(axis=(1, 2)), rtol=1e-6)
  np.testing.assert_array_equal(read_out(maps, 9), maps.reshape(2, -1))
  with pytest.raises(ValueError, match="the image is too small: the last feature map is 0x3"):
    read_out(jnp.zeros((1, 0, 3, 2)))
