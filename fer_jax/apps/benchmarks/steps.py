"""Training steps on random data, compiled programs, and interleaved timing."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013
from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.models import ModelSettings
from fer_jax.models.network import Network, Tree, inference_parameters
from fer_jax.objectives import ObjectiveSettings
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.objective import Objective
from fer_jax.optim import Optimizer
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.step import Resident, StepContext, TrainState, make_train_step

_BACKPROP = Backprop()


class StepInputs(NamedTuple):
  """A network with random parameters and random faces, ready for a training step.

  Attributes:
    network: Network built from `config.model`.
    state: Training state at step 0, with every layer trainable.
    resident: Faces and labels on the device.
    batch: Row indices of one batch.
    context: Step context halfway through the phase, with seed 0.
  """

  network: Network
  state: TrainState
  resident: Resident
  batch: Batch
  context: StepContext

  @property
  def arguments(self) -> tuple[TrainState, Resident, Batch, Any]:
    """Arguments of a training step."""
    return self.state, self.resident, self.batch, self.context

  @property
  def parameters(self) -> int:
    """Number of parameters of the network."""
    return sum(leaf.size for leaf in jax.tree.leaves(inference_parameters(self.state.params)))


def step_inputs(
  model: ModelSettings,
  batch_size: int,
  precision: str,
  image_size: int = FER2013[1],
  objective: ObjectiveSettings = _BACKPROP,
) -> StepInputs:
  """Builds a network with random parameters and random grey faces on the first device.

  Args:
    model: Settings of the network.
    batch_size: Images per batch; the device stores four batches.
    precision: "float32" or "bfloat16"; dtype of the activations.
    image_size: Height and width of an image in pixels.
    objective: Objective whose own parameters the state contains.
  """
  devices = Devices(jax.local_devices()[:1])
  network = model.build(CLASSES, jnp.dtype(precision), None)
  shape = (4 * batch_size, image_size, image_size, FER2013[3])
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, shape, dtype=np.uint8)
  target = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, shape[0])]  # one-hot [4 * B, K]

  def begin(key: jax.Array) -> tuple[Tree, Tree]:
    first = jnp.zeros((1, *shape[1:]))
    return objective.initial(network, network.init(key, first), first, key)

  params, stats = jax.jit(begin)(jax.random.key(0))
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, Optimizer().build().init(params))
  index = generator.integers(0, shape[0], batch_size).astype(np.int32)
  batch = Batch(index, np.ones(len(index), bool))
  resident, context = devices.replicate(Resident(image, target)), StepContext(np.float32(0.5), np.int32(0))
  return StepInputs(network, state, resident, batch, context)


def build_step(objective: Objective) -> Callable[..., Any]:
  """Returns a training step with an objective's gradients, AdamW and the default augmentation."""
  return make_train_step(objective, Optimizer().build(), Augmentation())


class Program(NamedTuple):
  """A compiled program.

  Attributes:
    run: Function that runs the program once and blocks until the result is ready.
    temporary_bytes: Peak temporary memory in bytes.
  """

  run: Callable[[], Any]
  temporary_bytes: int


def compile_program(function: Callable[..., Any], arguments: tuple) -> Program:
  """Compiles a function for its arguments and runs it once.

  Raises:
    UserError: The backend does not report the memory of a program.
  """
  compiled = jax.jit(function).lower(*arguments).compile()
  memory, backend = compiled.memory_analysis(), jax.default_backend()
  if memory is None:
    raise UserError(f"{backend}: this backend does not report the memory of compiled programs; use another")
  run = lambda: jax.block_until_ready(compiled(*arguments))  # noqa: E731
  run()
  return Program(run, memory.temp_size_in_bytes)


def interleaved_seconds(
  runs: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 0, limit: float = math.inf
) -> dict[str, list[float]]:
  """Returns the seconds of every timed run of each program.

  The programs run in round-robin order, so that a temporary slowdown of the machine affects all of them.

  Args:
    runs: Functions that run a program once, by name.
    rounds: Maximum number of turns of each program.
    calls: Timed runs per turn, after one untimed run that brings the parameters back into the cache; 0 for a single
      timed run per turn.
    limit: Total seconds after which a program has no further turns.
  """
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      if sum(seconds[name]) >= limit:
        continue
      if calls:
        run()
      for _ in range(calls or 1):
        start = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - start)
  return seconds


def median_seconds(programs: Mapping[str, Program], rounds: int, calls: int = 0) -> dict[str, float]:
  """Returns the median seconds of each program; see `interleaved_seconds`."""
  runs = {name: program.run for name, program in programs.items()}
  return {name: statistics.median(seconds) for name, seconds in interleaved_seconds(runs, rounds, calls).items()}
