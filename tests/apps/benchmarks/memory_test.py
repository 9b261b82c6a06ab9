"""Tests the memory benchmark, which starts the programs from the command line."""

import os

import pytest

from fer_jax.apps.benchmarks import memory as benchmark
from fer_jax.runtime.errors import Failure

MIB = 1024**2


@pytest.mark.slow
def test_measures_every_program(monkeypatch):
  monkeypatch.setattr(benchmark, "STEPS", 2)
  monkeypatch.setattr(benchmark, "LIVE_SECONDS", 8.0)
  for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  headline, rows = benchmark.memory("configs/obsr.py:demo", 1)
  assert headline == "main"
  assert {"main", "predict"} <= {row["name"] for row in rows} <= {"main", "predict", "live"}
  assert all(100 * MIB < row["peak_bytes"] < 8192 * MIB for row in rows)


def test_failed_program_is_named_with_its_error(tmp_path):
  missing = str(tmp_path / "nothing")
  with pytest.raises(Failure, match=r"fer_jax\.apps\.predict .*ended with status 2: error: .*nothing"):
    benchmark._peak("fer_jax.apps.predict", [f"--checkpoint={missing}", f"--out={tmp_path / 'rows.csv'}", os.devnull])
