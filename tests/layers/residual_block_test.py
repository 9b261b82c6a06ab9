import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.residual_block import ResidualBlock
from tests.layers.variables import random_variables

X = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))


@pytest.mark.parametrize(
  ("block", "last"),
  [
    (ResidualBlock(16), "conv2"),
    (ResidualBlock(16, squeeze_excite=True), "conv2"),
    (ResidualBlock(4, bottleneck=True, squeeze_excite=True), "conv3"),
  ],
)
def test_is_the_activation_alone_where_the_residual_is_zero(block, last):
  variables = random_variables(block, X)
  assert "downsample" not in variables["params"]
  assert ("squeeze_excite" in variables["params"]) == block.squeeze_excite
  assert np.any(block.apply(variables, X, train=False) != jnp.maximum(X, 0))
  variables["params"][last]["norm"] = {"scale": jnp.zeros(16), "bias": jnp.zeros(16)}
  np.testing.assert_array_equal(block.apply(variables, X, train=False), jnp.maximum(X, 0))


def test_the_activation_follows_the_sum():
  block = ResidualBlock(16)
  variables = random_variables(block, X)
  variables["params"]["conv2"]["norm"] = {"scale": jnp.zeros(16), "bias": jnp.full(16, -0.5)}
  np.testing.assert_array_equal(block.apply(variables, X, train=False), jnp.maximum(X - 0.5, 0))


@pytest.mark.parametrize(
  ("block", "sides"),
  [(ResidualBlock(16, 2), {"conv1": 3, "conv2": 3}), (ResidualBlock(4, 2, True), {"conv1": 6, "conv2": 3, "conv3": 3})],
)
def test_the_first_convolution_of_3x3_has_the_stride(block, sides):
  run = functools.partial(block.init_with_output, train=False, capture_intermediates=True)
  out, variables = jax.eval_shape(run, jax.random.key(0), X)
  found = {name: value["__call__"][0].shape[1] for name, value in variables["intermediates"].items() if name in sides}
  assert found == sides
  assert out.shape == (2, 3, 3, 16)
  assert variables["params"]["downsample"]["conv"]["kernel"].shape == (1, 1, 16, 16)
