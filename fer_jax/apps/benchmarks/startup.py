"""Time from process start to the first training step, with an empty and with a filled compilation cache."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, last_line
from fer_jax.runtime.errors import Failure

DEMOS = (
  "configs/hsic.py:demo",
  "configs/resnet.py:demo",
  "configs/ca_resnet.py:demo",
  "configs/obsr.py:demo",
  "configs/separable_se.py:demo",
)
_TIMEOUT_SECONDS = 600.0  # time limit of a start
_POLL_SECONDS = 0.02


def startup(config: str, rounds: int) -> Benchmark:
  """Measures the start of the five demos.

  Args:
    config: Not used; all demos are started.
    rounds: Starts per demo with a filled compilation cache.

  Returns:
    One row per demo: `first_seconds` from process start to the first step with an empty compilation cache, and
    `second_seconds`, the median of the later starts. Preparing the data is not included.

  Raises:
    Failure: A run ended, or took ten minutes, without a step.
  """
  del config
  rows: list[Row] = []
  for demo in DEMOS:
    with tempfile.TemporaryDirectory() as folder:
      _seconds(demo, Path(folder), None)  # prepares the data
      cache = Path(folder) / "cache"
      first = _seconds(demo, Path(folder), cache)
      later = [_seconds(demo, Path(folder), cache) for _ in range(rounds)]
      rows.append({"name": demo, "first_seconds": first, "second_seconds": statistics.median(later)})
  return Benchmark(rows[0]["name"], rows)


def _seconds(config: str, folder: Path, cache: Path | None) -> float:
  """Returns the seconds from process start to the first step; `cache` is the cache folder of compiled programs."""
  with tempfile.TemporaryDirectory(dir=folder) as parent, tempfile.TemporaryFile() as errors:
    command = [sys.executable, "-m", "fer_jax.main", f"--config={config}", f"--workdir={parent}/run"]
    environment = dict(os.environ) if cache is None else os.environ | {"XDG_CACHE_HOME": str(cache)}
    start = time.monotonic()
    child = subprocess.Popen(
      [*command, "--config.log_every=1 steps"], stdout=subprocess.DEVNULL, stderr=errors, env=environment
    )
    try:
      while child.poll() is None and time.monotonic() - start < _TIMEOUT_SECONDS:
        # Only records of steps have a loss: a run with replicas writes other records before its first step.
        if any('"loss"' in path.read_text(encoding="utf-8") for path in Path(parent).rglob("metrics.jsonl")):
          return time.monotonic() - start
        time.sleep(_POLL_SECONDS)
    finally:
      child.kill()
      child.wait()
    errors.seek(0)
    reason = last_line(errors.read().decode(errors="replace"))
    raise Failure(f"{' '.join(command)}: no first step after {time.monotonic() - start:.0f} s: {reason}")
