"""Ten folds as one program against ten separate runs: total process time, including start and compilation."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, settings_of
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.training import replicas as replicas_lib

ONE, SEQUENCE = "one program", "runs in sequence"


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
  trainings = replicas_lib.plan_replicas(settings_of(config)).replicas
  if len(trainings) == 1:
    raise UserError(
      f"--config={config}: has a single replica; expected several, such as configs/resnet.py:demo,folds=10"
    )
  # Flags that turn the config into a run of one replica.
  each = [
    [f"--config.seed={one.seed}", "--config.replicas=1"]
    + ([f"--config.folds.number={one.fold}"] if one.fold is not None else [])
    for one in trainings
  ]
  seconds: dict[str, list[float]] = {ONE: [], SEQUENCE: []}
  accuracy: dict[str, float] = {}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      start = time.perf_counter()
      whole = _train(config, Path(folder, "whole"), [])
      seconds[ONE].append(time.perf_counter() - start)
      start = time.perf_counter()
      single = [_train(config, Path(folder, str(number)), flags) for number, flags in enumerate(each)]
      seconds[SEQUENCE].append(time.perf_counter() - start)
    accuracy = {ONE: whole["accuracy"], SEQUENCE: statistics.fmean(result["accuracy"] for result in single)}
  least = statistics.median(seconds[ONE])
  rows: list[Row] = [
    {
      "name": name,
      "trainings": len(trainings),
      "seconds": statistics.median(taken),
      "time_ratio": statistics.median(taken) / least,
      "accuracy": accuracy[name],
      "trained_together": whole["strategy"]["together"] if name == ONE else 1,
    }
    for name, taken in seconds.items()
  ]
  return Benchmark(SEQUENCE, rows)


def _train(config: str, workdir: Path, flags: Sequence[str]) -> dict[str, Any]:
  """Trains in a separate process; returns the content of result.json.

  Raises:
    Failure: The run failed.
  """
  command = [sys.executable, "-m", "fer_jax.main", f"--config={config}", f"--workdir={workdir}", *flags]
  ended = subprocess.run(command, check=False, env=os.environ, capture_output=True, text=True)
  if ended.returncode:
    last = (ended.stderr or ended.stdout).strip().splitlines()[-1:]
    raise Failure(f"{' '.join(command[1:])}: exit status {ended.returncode} ({' '.join(last)})")
  return json.loads((workdir / "result.json").read_text(encoding="utf-8"))
