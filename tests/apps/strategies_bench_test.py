"""The benchmark of ways to train several networks at once, on a network of a handful of filters."""

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
def test_every_way_is_timed_against_steps_in_turn(config, devices, monkeypatch):
  monkeypatch.setattr(benchmark, "all_devices", lambda trainings: jax.devices()[:devices])
  headline, rows = benchmark.strategies(config, rounds=1)
  found = {row["name"]: row for row in rows}
  expected = {"in turn": 1, "side by side": 1} | ({"in turn, on all devices": 4} if devices > 1 else {})
  assert {name: row["devices"] for name, row in found.items()} == expected
  assert headline in found
  assert found["in turn"]["time_ratio"] == 1
  for row in rows:
    ratio = row["seconds_a_step"] / found["in turn"]["seconds_a_step"]
    assert row["time_ratio"] == pytest.approx(ratio)
  # Four trainings side by side have four states and four batches on one device.
  assert found["side by side"]["memory_bytes"] > 2 * found["in turn"]["memory_bytes"] > 0
