"""Tests the startup benchmark, which starts runs from the command line."""

import pytest

from fer_jax.apps.benchmarks import startup as benchmark
from fer_jax.runtime.errors import Failure


@pytest.mark.slow
def test_second_start_is_faster(monkeypatch):
  monkeypatch.setattr(benchmark, "DEMOS", ("configs/obsr.py:demo",))
  for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  headline, (row,) = benchmark.startup("", 1)
  assert headline == row["name"] == "configs/obsr.py:demo"
  assert row["first_seconds"] > row["second_seconds"] > 0


def test_run_without_a_step_is_named_with_its_error(tmp_path):
  with pytest.raises(Failure, match=r"configs/nothing\.py.*no first step after \d+ s: error: .*configs/nothing\.py"):
    benchmark._seconds("configs/nothing.py", tmp_path, None)
