"""Ten folds as one program against ten separate runs: total process time, including start and compilation."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, last_line, load_settings
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.training import replicas as replicas_lib

ONE_PROGRAM, SEPARATE_RUNS = "one program", "runs in sequence"


def replicas(config: str, rounds: int) -> Benchmark:
  """Trains all replicas of a config in one process, then each in a separate process, from start to report.

  Preparing the data is not included.

  Args:
    config: Config with several replicas, FILE.py:VARIANT.
    rounds: Repetitions of both variants, interleaved.

  Returns:
    One row per variant: median seconds, `time_ratio` relative to one program, mean accuracy, and the number of replicas
    that were trained together.

  Raises:
    UserError: The config has a single replica.
    Failure: A run failed.
  """
  planned = replicas_lib.plan_replicas(load_settings(config)).replicas
  if len(planned) == 1:
    raise UserError(
      f"--config={config}: has a single replica; expected several, such as configs/resnet.py:demo,folds=10"
    )
  # Flags that turn the config into a run of one replica.
  replica_flags = [
    [f"--config.seed={one.seed}", "--config.replicas=1"]
    + ([f"--config.folds.number={one.fold}"] if one.fold is not None else [])
    for one in planned
  ]
  seconds: dict[str, list[float]] = {ONE_PROGRAM: [], SEPARATE_RUNS: []}
  accuracy: dict[str, float] = {}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      start = time.perf_counter()
      whole = _train(config, Path(folder, "whole"), [])
      seconds[ONE_PROGRAM].append(time.perf_counter() - start)
      start = time.perf_counter()
      single = [_train(config, Path(folder, str(number)), flags) for number, flags in enumerate(replica_flags)]
      seconds[SEPARATE_RUNS].append(time.perf_counter() - start)
    accuracy = {
      ONE_PROGRAM: whole["accuracy"],
      SEPARATE_RUNS: statistics.fmean(result["accuracy"] for result in single),
    }
  one_program = statistics.median(seconds[ONE_PROGRAM])
  rows: list[Row] = [
    {
      "name": name,
      "trainings": len(planned),
      "seconds": statistics.median(taken),
      "time_ratio": statistics.median(taken) / one_program,
      "accuracy": accuracy[name],
      "trained_together": whole["strategy"]["together"] if name == ONE_PROGRAM else 1,
    }
    for name, taken in seconds.items()
  ]
  return Benchmark(SEPARATE_RUNS, rows)


def _train(config: str, workdir: Path, flags: Sequence[str]) -> dict[str, Any]:
  """Trains in a separate process; returns the content of result.json."""
  command = [sys.executable, "-m", "fer_jax.main", f"--config={config}", f"--workdir={workdir}", *flags]
  process = subprocess.run(command, check=False, capture_output=True, text=True)
  if process.returncode:
    reason = last_line(process.stderr or process.stdout)
    raise Failure(f"{' '.join(command[1:])}: exit status {process.returncode} ({reason})")
  return json.loads((workdir / "result.json").read_text(encoding="utf-8"))
