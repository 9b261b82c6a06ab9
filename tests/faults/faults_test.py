"""Each fault once; `python -m tests.faults` puts them in many times."""

import random

import pytest

from tests.faults.registry import FAULTS
from tests.faults.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  with World(tmp_path_factory.mktemp("world")) as world:
    yield world


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_survives(world, name):
  found = FAULTS[name].put(world, random.Random(name))
  assert found["steps_lost"] <= FAULTS[name].bound
