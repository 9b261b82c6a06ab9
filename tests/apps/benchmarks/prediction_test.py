"""Tests the prediction benchmark on a few photographs and a small network."""

import numpy as np
import pytest

from fer_jax.apps.benchmarks import prediction as benchmark

TINY = """
from configs import resnet
def get_config():
  config = resnet.get_config("demo")
  config.model.width = 4
  config.data.image_size = 16
  return config
"""


def test_batch_sizes_agree(write_config, monkeypatch):
  monkeypatch.setattr(benchmark, "PHOTOGRAPHS", 6)
  headline, rows = benchmark.prediction(write_config(TINY), 1)
  assert headline == "batches of 64"
  assert [row["name"] for row in rows] == [f"batches of {size}" for size in benchmark.BATCH_SIZES]
  for row in rows:
    assert (row["photographs"], row["labels_that_differ"]) == (6, 0)
    assert row["faces"] >= 4
    assert row["images_per_second"] > 0
    assert row["largest_difference"] == pytest.approx(0, abs=1e-5)


def test_row_reports_differences():
  found = np.eye(7, dtype=np.float32)
  other = np.roll(found, 1, axis=0)
  row = benchmark._row(1, 2.0, found, other)
  assert (row["largest_difference"], row["labels_that_differ"]) == (1, 7)
