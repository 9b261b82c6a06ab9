"""Training and evaluation steps, compiled for GPUs that this machine does not have."""

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013
from fer_jax.apps.benchmarks.gpu_program import GpuProgram, parse_program
from fer_jax.config.settings import Settings
from fer_jax.data.batch import Batch
from fer_jax.runtime.parallel import Devices, Placement, Replicas
from fer_jax.training.initialization import Initialization, initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.step import Resident, StepContext, make_eval_step

QUICK = {
  "xla_gpu_disable_gpuasm_optimizations": True,
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
"""Options for XLA that leave the kernels and the memory as they are, and optimise the code of the kernels less."""


class Step(NamedTuple):
  """A step of a run that is not compiled yet.

  Attributes:
    function: Result of `Devices.compile_train` or `Devices.compile_eval`.
    arguments: Shapes and dtypes of its arguments, placed on the devices.
    donated: Number of arrays whose buffers it may reuse for its results.
  """

  function: Any
  arguments: tuple[Any, ...]
  donated: int


class CompiledStep(NamedTuple):
  """A compiled step.

  Attributes:
    program: Its kernels.
    temporary_bytes: Memory of a device for intermediate values.
    argument_bytes: Memory of a device for the arguments: parameters, optimiser state, and the dataset's images.
    peak_bytes: Memory of a device for all arrays.
    seconds: Seconds that XLA compiled.
  """

  program: GpuProgram
  temporary_bytes: int
  argument_bytes: int
  peak_bytes: int
  seconds: float


def training_steps(settings: Settings, devices: Sequence[jax.Device], together: int = 1) -> dict[str, Step]:
  """Returns the training step of each phase of a run by the phase's name, with FER2013's training split on each device.

  Args:
    settings: Settings of the run. The batch size is that of one device.
    devices: Devices of one process.
    together: Number of replicas that are trained together on one device by `vmap`.
  """
  placement = _placement(devices, together)
  initialization, size = _initialization(settings, placement.axis_name), _image_size(settings)
  context = StepContext(*(jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32, jnp.float32)))
  steps = {}
  for phase in plan_phases(settings, initialization.network, placement.axis_name, FER2013[0]):
    state = jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes)
    state, batch, of_phase = _stacked((state, _batch(settings.batch_size, devices), context), together)
    function = placement.compile_train(phase.train_step, f"training {phase.identity}")
    arguments = _placed((state, _resident(size), batch, of_phase), devices)
    steps[phase.name] = Step(function, arguments, len(jax.tree.leaves(state)))
  return steps


def evaluation_step(settings: Settings, devices: Sequence[jax.Device]) -> Step:
  """Returns the evaluation step of a run; see `training_steps` for the arguments."""
  placement = _placement(devices, 1)
  initialization, size = _initialization(settings, placement.axis_name), _image_size(settings)
  arguments = (initialization.shapes, _resident(size), _batch(settings.eval_batch_size, devices))
  step = make_eval_step(initialization.network, placement.axis_name)
  identity = f"evaluation {(settings.model, settings.precision)}"
  return Step(placement.compile_eval(step, identity), _placed(arguments, devices), 0)


def compile_step(step: Step, quick: bool = False) -> CompiledStep:
  """Compiles a step for the devices of its arguments.

  Args:
    step: Step to compile.
    quick: Whether to optimise the code of the kernels less; everything but `seconds` is the same.
  """
  lowered = step.function.lower(*step.arguments)
  # Without a device, JAX cannot load a program from the cache of compiled programs.
  cached = jax.config.values["jax_enable_compilation_cache"]
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    start = time.perf_counter()
    compiled = lowered.compile(QUICK if quick else None)
    seconds = time.perf_counter() - start
  finally:
    jax.config.update("jax_enable_compilation_cache", cached)
  memory = compiled.memory_analysis()
  return CompiledStep(
    parse_program(compiled.as_text()),
    memory.temp_size_in_bytes,
    memory.argument_size_in_bytes,
    # Results that reuse the buffer of an argument need no memory of their own.
    memory.temp_size_in_bytes
    + memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    seconds,
  )


def faults(step: Step, compiled: CompiledStep) -> list[str]:
  """Returns what no step should contain: float64, exchange with the host, a state that is copied; [] if nothing."""
  program = compiled.program
  found = []
  if "f64" in program.dtypes or "c128" in program.dtypes:
    found.append("computes in float64")
  if program.host_transfers:
    found.append(f"exchanges data with the host: {', '.join(program.host_transfers)}")
  if program.donated < step.donated:
    found.append(f"donates {program.donated} of {step.donated} arrays of the state")
  return found


def _placement(devices: Sequence[jax.Device], together: int) -> Placement:
  return Devices(devices) if together == 1 else Replicas(together, devices)


def _initialization(settings: Settings, axis_name: str | None) -> Initialization:
  size = _image_size(settings)
  return initialize(settings, (size, size, FER2013[3]), CLASSES, axis_name)


def _stacked(trees: tuple[Any, ...], together: int) -> tuple[Any, ...]:
  if together == 1:
    return trees
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((together, *x.shape), x.dtype), trees)


def _image_size(settings: Settings) -> int:
  return settings.data.image_size or FER2013[1]


def _resident(size: int) -> Resident:
  image = jax.ShapeDtypeStruct((FER2013[0], size, size, FER2013[3]), jnp.uint8)
  return Resident(image, jax.ShapeDtypeStruct((FER2013[0], CLASSES), jnp.float32))


def _batch(batch_size: int, devices: Sequence[jax.Device]) -> Batch:
  shape = (batch_size,) if len(devices) == 1 else (len(devices), batch_size)
  return Batch(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool))


def _placed(arguments: tuple[Any, ...], devices: Sequence[jax.Device]) -> tuple[Any, ...]:
  if len(devices) > 1:
    return arguments  # pmap places them itself
  sharding = SingleDeviceSharding(devices[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
