"""Memory, kernels, collectives and estimated time of steps that are compiled for a GPU, on a machine without one."""

import dataclasses
import sys
from collections.abc import Sequence

import jax

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, load_settings
from fer_jax.apps.benchmarks.gpu_program import KINDS
from fer_jax.apps.benchmarks.gpu_step import (
  Step,
  compile_step,
  evaluation_step,
  faults,
  training_steps,
)
from fer_jax.apps.benchmarks.gpu_target import TARGETS, GpuTarget, absent_devices
from fer_jax.config.settings import Settings
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.runtime.errors import UserError

PRECISIONS = ("float32", "bfloat16")
COUNTS = (1, 8)  # numbers of devices
TWIN = "backprop"


def gpu(config: str, rounds: int, target: str = "h100") -> Benchmark:
  """Compiles the steps of configs for GPUs that are not here, and describes the programs.

  A program is compiled for each precision, for one device and for eight of one machine, by the functions that compile
  it in training, with the config's batch and FER2013's training split on each device. A step is that of the first phase
  of the schedule, that of its back-propagated twin if the objective is the HSIC bottleneck, that of all folds or seeds
  together (`vmap`) if the config has several, or the evaluation.

  Args:
    config: One or several configs, FILE.py:VARIANT, separated by spaces.
    rounds: Not used.
    target: GPU, a key of TARGETS.

  Returns:
    One row per program. `estimated_seconds` is the sum over all kernels of a launch and of the slower of memory and
    arithmetic at the GPU's peak rates, which no kernel reaches. `largest_batch`, on one device, is where the memory of
    two batch sizes, on a straight line, reaches the GPU's. `kernels_ratio`, `memory_ratio` (temporary bytes) and
    `estimated_ratio` are relative to the twin, or, for replicas, to as many separate steps.

  Raises:
    UserError: XLA for CUDA is not installed, or a program has a fault; see `gpu_step.faults`.
  """
  del rounds
  rows = [row for each in config.split() for row in _rows_of(each, TARGETS[target])]
  return Benchmark(rows[0]["name"], rows)


def with_twin(settings: Settings) -> dict[str, Settings]:
  """Returns the settings by the name of the first phase, after those of its back-propagated twin if it has one."""
  name = settings.schedule[0]
  phase = settings.phases[name]
  if not isinstance(phase.objective, HsicBottleneck):
    return {name: settings}
  twin = dataclasses.replace(phase, objective=Backprop(), train=("*",))
  return {TWIN: dataclasses.replace(settings, phases={**settings.phases, name: twin}), name: settings}


def _rows_of(config: str, target: GpuTarget) -> list[Row]:
  rows = []
  loaded = load_settings(config)
  # The weights do not matter here.
  loaded = dataclasses.replace(loaded, pretrained=dataclasses.replace(loaded.pretrained, path="", required=False))
  first, together = loaded.schedule[0], loaded.replicas or loaded.folds.count
  for precision in PRECISIONS:
    settings = dataclasses.replace(loaded, precision=precision)
    for count in COUNTS:
      suffix, devices = f"{precision}, {count} GPU" + "s" * (count > 1), absent_devices(target, count)
      twin: Row = {}
      for name, candidate in with_twin(settings).items():
        row = _row(f"{config}, {name}, {suffix}", training_steps(candidate, devices)[first], target)
        if count == 1:
          row["largest_batch"] = _largest_batch(candidate, devices, row["peak_bytes"], target)
        twin = row if name == TWIN else twin
        rows.append(row | (_ratios(row, twin, 1) if twin else {}))
      if together > 1 and count == 1:
        step = training_steps(settings, devices, together)[first]
        row = _row(f"{config}, {first}, {together} replicas, {suffix}", step, target)
        rows.append(row | _ratios(row, rows[-1], together))
      rows.append(_row(f"{config}, evaluation, {suffix}", evaluation_step(settings, devices), target))
  return rows


def _row(name: str, step: Step, target: GpuTarget) -> Row:
  compiled = compile_step(step)
  print(f"compiled in {compiled.seconds:.0f} s: {name}", file=sys.stderr, flush=True)
  if found := faults(step, compiled):
    raise UserError(f"{name}: the step {'; '.join(found)}")
  program = compiled.program
  return {
    "name": name,
    "temporary_bytes": compiled.temporary_bytes,
    "argument_bytes": compiled.argument_bytes,
    "peak_bytes": compiled.peak_bytes,
    "kernels": program.count(),
    **{kind: program.count(kind) for kind in KINDS},
    "collectives": len(program.collectives),
    "collective_bytes": sum(each.result for each in program.collectives),
    "compile_seconds": compiled.seconds,
    "estimated_seconds": program.seconds(target),
  }


def _ratios(row: Row, reference: Row, times: int) -> Row:
  """Returns the ratios of a program to `times` runs of another; memory to one of them."""
  return {
    "kernels_ratio": row["kernels"] / (times * reference["kernels"]),
    "memory_ratio": row["temporary_bytes"] / reference["temporary_bytes"],
    "estimated_ratio": row["estimated_seconds"] / (times * reference["estimated_seconds"]),
  }


def _largest_batch(settings: Settings, devices: Sequence[jax.Device], peak_bytes: int, target: GpuTarget) -> int:
  """Returns the batch size at which the memory of the first phase's step reaches that of the GPU."""
  batch = settings.batch_size
  twice = dataclasses.replace(settings, batch_size=2 * batch)
  step = training_steps(twice, devices)[settings.schedule[0]]
  bytes_an_image = (compile_step(step, quick=True).peak_bytes - peak_bytes) / batch
  return int(batch + (target.memory - peak_bytes) / bytes_an_image)
