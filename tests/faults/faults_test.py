"""Injects each fault once; `python -m tests.faults` injects them repeatedly."""

import random

import pytest

from tests.faults.harness import Harness
from tests.faults.registry import FAULTS


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
  with Harness(tmp_path_factory.mktemp("harness")) as harness:
    yield harness


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_run_survives(harness, name):
  found = FAULTS[name].inject(harness, random.Random(name))
  assert found["steps_lost"] <= FAULTS[name].bound
