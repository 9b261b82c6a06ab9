import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.layers.conv_norm_act import ConvNormAct
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
def test_is_the_activation_of_the_input_if_the_residual_is_zero(block, last):
  variables = random_variables(block, X)
  assert "downsample" not in variables["params"]
  assert ("squeeze_excite" in variables["params"]) == block.squeeze_excite
  assert np.any(block.apply(variables, X, train=False) != jnp.maximum(X, 0))
  variables["params"][last]["norm"] = {"scale": jnp.zeros(16), "bias": jnp.zeros(16)}
  np.testing.assert_array_equal(block.apply(variables, X, train=False), jnp.maximum(X, 0))


def test_activation_follows_the_sum():
  block = ResidualBlock(16)
  variables = random_variables(block, X)
  variables["params"]["conv2"]["norm"] = {"scale": jnp.zeros(16), "bias": jnp.full(16, -0.5)}
  np.testing.assert_array_equal(block.apply(variables, X, train=False), jnp.maximum(X - 0.5, 0))


@pytest.mark.parametrize(
  "options", [{"features": 16}, {"features": 8}, {"features": 4, "stride": 2, "bottleneck": True}]
)
def test_without_shortcut_is_a_chain_of_convolutions(options):
  plain, residual = ResidualBlock(shortcut=False, **options), ResidualBlock(**options)
  variables = random_variables(residual, X)
  branches = {kind: dict(tree) for kind, tree in variables.items()}
  for tree in branches.values():
    tree.pop("downsample", None)
  assert jax.tree.structure(random_variables(plain, X)) == jax.tree.structure(branches)
  y = X
  for i, name in enumerate(names := sorted(branches["params"])):
    kernel_size = branches["params"][name]["conv"]["kernel"].shape[0]
    channels = branches["params"][name]["conv"]["kernel"].shape[-1]
    strided = options.get("stride", 1) if i == len(names) - 2 else 1
    unit = ConvNormAct(channels, kernel_size, strided)
    y = unit.apply({kind: tree[name] for kind, tree in branches.items()}, y, train=False)
  np.testing.assert_allclose(plain.apply(branches, X, train=False), y, atol=1e-6)
  assert np.any(residual.apply(variables, X, train=False) != y)


def test_kernel_init_applies_to_all_kernels():
  block = ResidualBlock(4, 2, bottleneck=True, kernel_init=jax.nn.initializers.constant(0.5))
  params = block.init(jax.random.key(0), X, train=False)["params"]
  assert len(params) == 4
  assert {float(value) for part in params.values() for value in part["conv"]["kernel"].ravel()} == {0.5}


@pytest.mark.parametrize(
  ("block", "sides"),
  [(ResidualBlock(16, 2), {"conv1": 3, "conv2": 3}), (ResidualBlock(4, 2, True), {"conv1": 6, "conv2": 3, "conv3": 3})],
)
def test_first_3x3_convolution_has_the_stride(block, sides):
  init = functools.partial(block.init_with_output, train=False, capture_intermediates=True)
  out, variables = jax.eval_shape(init, jax.random.key(0), X)
  found = {name: value["__call__"][0].shape[1] for name, value in variables["intermediates"].items() if name in sides}
  assert found == sides
  assert out.shape == (2, 3, 3, 16)
  assert variables["params"]["downsample"]["conv"]["kernel"].shape == (1, 1, 16, 16)
