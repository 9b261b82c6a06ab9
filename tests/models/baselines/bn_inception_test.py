import functools

import jax
import numpy as np
import pytest

from fer_jax.models.baselines.bn_inception import BnInception, InceptionModule, Widths
from tests.layers.variables import random_variables
from tests.models.baselines.shapes import count, traced


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_parameter_count_matches_the_pytorch_port_without_biases(stem):
  # The paper gives no count. The port from Caffe to PyTorch (Cadene, pretrained-models) has a bias in every
  # convolution, which the normalisation cancels.
  found = traced(BnInception(stem), 224, 3, 1000)
  biases = count(found.stats) // 2  # the statistics have a mean and a variance per channel
  assert (count(found.params), biases) == (11_285_224, 10_016)
  assert count(found.params) + biases == 11_295_240


def test_modules_have_the_output_shapes_of_the_paper():
  outputs = traced(BnInception("imagenet"), 224, 3, 1000).outputs
  shapes = [output.shape[1:] for name, output in outputs.items() if name.startswith("inception")]
  assert [side for side, _, _ in shapes] == [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]
  # The paper prints 576 and 1024 instead of 608 and 1056, but its branches sum to the latter.
  assert [channels for *_, channels in shapes] == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


def evaluate(widths, x):
  module = InceptionModule(widths)
  return jax.jit(functools.partial(module.apply, train=False))(random_variables(module, x), x)


@pytest.mark.parametrize("side", [6, 7])
def test_module_without_1x1_branch_halves_the_resolution(side):
  x = np.asarray(jax.random.normal(jax.random.key(0), (2, side, side, 3)))
  found = evaluate(Widths(0, (2, 3), (2, 4), "max", 0), x)
  assert found.shape == (2, (side + 1) // 2, (side + 1) // 2, 3 + 4 + 3)
  start = side % 2  # odd sizes are padded on both sides, even ones at the end
  padded = np.pad(x, ((0, 0), (start, 1), (start, 1), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
  np.testing.assert_array_equal(found[..., -3:], windows.max(axis=(-2, -1)))


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_module_concatenates_its_branches(pool):
  # In a constant image only the zero padding varies: it changes the average pool at the border, but not the maximum.
  x = np.ones((1, 9, 9, 3), np.float32)
  found = evaluate(Widths(5, (8, 6), (8, 6), pool, 7), x)
  assert found.shape == (1, 9, 9, 5 + 6 + 6 + 7)
  assert np.ptp(found[..., :5], axis=(1, 2)).max() == 0
  assert (np.ptp(found[..., -7:], axis=(1, 2)).max() > 0.01) == (pool == "avg")
