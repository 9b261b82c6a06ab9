"""Tests the benchmark of replica strategies on a small network."""

import jax
import pytest

from fer_jax.apps.benchmarks import strategies as benchmark

TINY = """
from tests import tiny_run

def get_config():
  return tiny_run.config(**{"data.image_size": 16})
"""


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(TINY)
  return str(path)


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_strategies_are_relative_to_sequential_execution(config, devices, monkeypatch):
  monkeypatch.setattr(benchmark, "all_devices", lambda replicas: jax.devices()[:devices])
  headline, rows = benchmark.strategies(config, rounds=1)
  found = {row["name"]: row for row in rows}
  expected = {"in turn": 1, "side by side": 1} | ({"in turn, on all devices": 4} if devices > 1 else {})
  assert {name: row["devices"] for name, row in found.items()} == expected
  assert headline in found
  assert found["in turn"]["time_ratio"] == 1
  for row in rows:
    ratio = row["seconds_a_step"] / found["in turn"]["seconds_a_step"]
    assert row["time_ratio"] == pytest.approx(ratio)
  # Four vectorised replicas have four states and four batches on one device.
  assert found["side by side"]["memory_bytes"] > 2 * found["in turn"]["memory_bytes"] > 0
