"""Logits and targets of a batch."""

import numpy as np
import pytest

B, K = 9, 7


@pytest.fixture
def logits():
  return np.random.default_rng(0).normal(0, 4, (B, K)).astype(np.float32)


@pytest.fixture(params=["one-hot", "votes"])
def target(request):
  rng = np.random.default_rng(1)
  if request.param == "one-hot":
    return np.eye(K, dtype=np.float32)[rng.integers(0, K, B)]
  return rng.dirichlet(np.ones(K), B).astype(np.float32)
