"""Memory, kernels, collectives and estimated time of steps that are compiled for a GPU, on a machine without one."""

import dataclasses

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


def gpu(config: str, rounds: int, target: str = "h100") -> Benchmark:
  """Compiles the steps of configs for GPUs that are not here, and describes the programs.

  A program is compiled for each precision, for one device and for eight of one machine, by the functions that compile
  it in training, with the config's batch and FER2013's training split on each device. A step is that of the first phase
  of the schedule, that of its back-propagated twin if the objective is the HSIC bottleneck, or the evaluation.

  Args:
    config: One or several configs, FILE.py:VARIANT, separated by spaces.
    rounds: Not used.
    target: GPU, a key of TARGETS.

  Returns:
    One row per program. `estimated_seconds` is the sum over all kernels of a launch and of the slower of memory and
    arithmetic at the GPU's peak rates: a lower bound for single kernels, and an estimate of nothing but these
    assumptions. `largest_batch`, for training steps on one device, extrapolates the memory of two batch sizes.
    `kernels_ratio`, `memory_ratio` and `estimated_ratio` are relative to the twin of the same precision.

  Raises:
    UserError: The target is unknown, XLA for CUDA is not installed, or a program has a fault; see `gpu_step.faults`.
  """
  del rounds
  if target not in TARGETS:
    raise UserError(f"--target={target}: expected one of {', '.join(TARGETS)}")
  rows = [row for each in config.split() for row in _rows_of(each, TARGETS[target])]
  return Benchmark(rows[0]["name"], rows)


def with_twin(settings: Settings) -> dict[str, Settings]:
  """Returns the settings by the name of the first phase, and those of its back-propagated twin if it has one."""
  name = settings.schedule[0]
  phase = settings.phases[name]
  if not isinstance(phase.objective, HsicBottleneck):
    return {name: settings}
  twin = dataclasses.replace(phase, objective=Backprop(), train=("*",))
  return {"backprop": dataclasses.replace(settings, phases={**settings.phases, name: twin}), name: settings}


def _rows_of(config: str, target: GpuTarget) -> list[Row]:
  rows = []
  for precision in PRECISIONS:
    settings = dataclasses.replace(load_settings(config), precision=precision)
    # The weights do not matter here.
    settings = dataclasses.replace(
      settings, pretrained=dataclasses.replace(settings.pretrained, path="", required=False)
    )
    for count in COUNTS:
      devices = absent_devices(target, count)
      twin: Row = {}
      for name, candidate in with_twin(settings).items():
        step = training_steps(candidate, devices)[settings.schedule[0]]
        row = _row(f"{config}, {name}, {precision}, {count}", step, target)
        twin = row if name == "backprop" else twin
        if twin:
          row |= {
            f"{key.split('_')[0]}_ratio": row[key] / twin[key]
            for key in ("kernels", "temporary_bytes", "estimated_seconds")
          }
        rows.append(row)
      rows.append(_row(f"{config}, evaluation, {precision}, {count}", evaluation_step(settings, devices), target))
  return rows


def _row(name: str, step: Step, target: GpuTarget) -> Row:
  compiled = compile_step(step)
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
