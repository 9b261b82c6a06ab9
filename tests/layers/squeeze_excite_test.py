import flax.linen as nn
import jax
import numpy as np
import pytest

from fer_jax.layers.attention import SqueezeExcite
from tests.layers.variables import random_variables

GATES = {
  "logistic": (nn.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
  "hard": (nn.hard_sigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
}


@pytest.mark.parametrize("gate", GATES)
def test_equals_float64(gate):
  function, reference = GATES[gate]
  x = np.random.default_rng(0).normal(1, 2, (3, 5, 4, 8)).astype(np.float32)
  layer = SqueezeExcite(2, gate=function)
  variables = random_variables(layer, x)
  reduce, expand = (jax.tree.map(lambda p: np.asarray(p, float), variables["params"][k]) for k in ("reduce", "expand"))
  assert reduce["kernel"].shape == (8, 2)
  hidden = np.maximum(x.astype(float).mean(axis=(1, 2)) @ reduce["kernel"] + reduce["bias"], 0)
  gates = reference(hidden @ expand["kernel"] + expand["bias"])
  found = layer.apply(variables, x, train=False)
  np.testing.assert_allclose(found, x * gates[:, None, None, :], rtol=1e-4, atol=1e-5)
