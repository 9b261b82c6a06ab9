import functools

import jax
import numpy as np
import pytest

from fer_jax.models.baselines.bn_inception import BnInception, InceptionModule, Widths
from tests.layers.variables import random_variables
from tests.models.baselines.shapes import count, traced


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_has_the_common_ports_parameters_but_the_biases_that_normalisation_cancels(stem):
  # The paper prints no count. The port from Caffe to PyTorch (Cadene, pretrained-models) gives every convolution a
  # bias as well as a normalisation.
  found = traced(BnInception(stem), 224, 3, 1000)
  biases = count(found.stats) // 2  # a mean and a variance stand for each channel
  assert (count(found.params), biases) == (11_285_224, 10_016)
  assert count(found.params) + biases == 11_295_240


def test_the_modules_leave_the_papers_maps():
  outputs = traced(BnInception("imagenet"), 224, 3, 1000).outputs
  maps = [output.shape[1:] for name, output in outputs.items() if name.startswith("inception")]
  assert [side for side, _, _ in maps] == [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]
  # 608 and 1056: where the paper prints 576 and 1024, its own branches sum to more.
  assert [channels for *_, channels in maps] == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


def evaluated(widths, x):
  module = InceptionModule(widths)
  return jax.jit(functools.partial(module.apply, train=False))(random_variables(module, x), x)


@pytest.mark.parametrize("side", [6, 7])
def test_a_module_without_a_1x1_branch_halves_the_map_and_passes_its_maxima_through(side):
  x = np.asarray(jax.random.normal(jax.random.key(0), (2, side, side, 3)))
  found = evaluated(Widths(0, (2, 3), (2, 4), "max", 0), x)
  assert found.shape == (2, (side + 1) // 2, (side + 1) // 2, 3 + 4 + 3)
  start = side % 2  # an odd map is padded on both sides, an even one at its end
  padded = np.pad(x, ((0, 0), (start, 1), (start, 1), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
  np.testing.assert_array_equal(found[..., -3:], windows.max(axis=(-2, -1)))


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_the_branches_stand_side_by_side(pool):
  # A constant face looks alike at every scale, but for the zeros around it: in the middle all pools agree.
  x = np.ones((1, 9, 9, 3), np.float32)
  found = evaluated(Widths(5, (8, 6), (8, 6), pool, 7), x)
  assert found.shape == (1, 9, 9, 5 + 6 + 6 + 7)
  assert np.ptp(found[..., :5], axis=(1, 2)).max() == 0
  assert (np.ptp(found[..., -7:], axis=(1, 2)).max() > 0.01) == (pool == "avg")
