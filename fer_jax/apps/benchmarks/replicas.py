"""Ten folds as one program against ten separate runs: total process time, including start and compilation."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, last_line, load_settings
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.training import replicas as replicas_lib
from fer_jax.training.run_result import RunResult, read_result

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
  flags_of_each = [
    [f"--config.seed={one.seed}", "--config.replicas=1"]
    + ([f"--config.folds.number={one.fold}"] if one.fold is not None else [])
    for one in planned
  ]
  seconds: dict[str, list[float]] = {ONE_PROGRAM: [], SEPARATE_RUNS: []}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      start = time.perf_counter()
      whole = _train(config, Path(folder, "whole"), [])
      seconds[ONE_PROGRAM].append(time.perf_counter() - start)
      start = time.perf_counter()
      single = [_train(config, Path(folder, str(number)), flags) for number, flags in enumerate(flags_of_each)]
      seconds[SEPARATE_RUNS].append(time.perf_counter() - start)
    assert whole.strategy is not None  # of several replicas
    accuracy = {ONE_PROGRAM: whole.accuracy, SEPARATE_RUNS: statistics.fmean(result.accuracy for result in single)}
    together = {ONE_PROGRAM: whole.strategy.together, SEPARATE_RUNS: 1}
  one_program = statistics.median(seconds[ONE_PROGRAM])
  rows: list[Row] = [
    {
      "name": name,
      "runs": len(planned),
      "seconds": statistics.median(taken),
      "time_ratio": statistics.median(taken) / one_program,
      "accuracy": accuracy[name],
      "trained_together": together[name],
    }
    for name, taken in seconds.items()
  ]
  return Benchmark(SEPARATE_RUNS, rows)


def _train(config: str, workdir: Path, flags: Sequence[str]) -> RunResult:
  """Trains in a separate process and returns the result."""
  command = [sys.executable, "-m", "fer_jax.main", f"--config={config}", f"--workdir={workdir}", *flags]
  process = subprocess.run(command, check=False, capture_output=True, text=True)
  if process.returncode:
    reason = last_line(process.stderr or process.stdout)
    raise Failure(f"{' '.join(command[1:])}: exit status {process.returncode} ({reason})")
  return read_result(workdir / "result.json")
