"""Parts shared by the benchmarks: result type, training step on random data, interleaved timing."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config.command_line import load_config
from fer_jax.config.parsing import parse
from fer_jax.config.settings import Settings
from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models import ModelSettings
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.objectives.objective import Objective
from fer_jax.optim import Optimizer
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.step import Resident, StepContext, TrainState, make_train_step

Row = dict[str, Any]
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER2013 = (28709, 48, 48, 1)  # shape [N, H, W, C] of the training split
CLASSES = len(EXPRESSIONS)


class Benchmark(NamedTuple):
  """Result of a benchmark.

  Attributes:
    headline: Name of the most important row, usually the project as configured.
    rows: One dict per candidate, with the key `name` first.
  """

  headline: str
  rows: list[Row]


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
    """Number of trainable scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def make_step_inputs(model: ModelSettings, batch_size: int, precision: str, image_size: int = FER2013[1]) -> StepInputs:
  """Builds a network with random parameters and random grey faces on the first device.

  Args:
    model: Settings of the network.
    batch_size: Images per batch; the device stores four batches.
    precision: "float32" or "bfloat16"; dtype of the activations.
    image_size: Height and width of an image in pixels.
  """
  devices = Devices(jax.local_devices()[:1])
  network = model.build(CLASSES, jnp.dtype(precision), None)
  shape = (4 * batch_size, image_size, image_size, FER2013[3])
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, shape, dtype=np.uint8)
  target = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, shape[0])]  # one-hot [4 * B, K]
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape[1:])))
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, Optimizer().build().init(params))
  index = generator.integers(0, shape[0], batch_size).astype(np.int32)
  batch = Batch(index, np.ones(len(index), bool))
  return StepInputs(
    network, state, devices.replicate(Resident(image, target)), batch, StepContext(np.float32(0.5), np.int32(0))
  )


def random_variables(network: Network, shape: tuple[int, ...]) -> tuple[Tree, Tree]:
  """Returns random parameters and statistics that keep activations finite.

  They are drawn with NumPy, because compiling the initialisers of all networks takes longer than the benchmark.

  Args:
    network: Network to draw the variables of.
    shape: Shape [B, H, W, C] of the images.
  """
  generator = np.random.default_rng(0)

  def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
    # Kernels: He initialisation, with all axes but the last as fan-in. Vectors: unit scale and variance, zero bias.
    if len(leaf.shape) > 1:
      deviation = np.float32(np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))))
      return jnp.asarray(deviation * generator.standard_normal(leaf.shape, np.float32), leaf.dtype)
    return (jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros)(leaf.shape, leaf.dtype)

  shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
  params, stats = jax.tree_util.tree_map_with_path(draw, shapes)
  return params, stats


def random_model(config: str, crop: str = "face") -> TrainedModel:
  """Returns the network of a config with random parameters; its speed does not depend on the parameters.

  Args:
    config: Config of the network, FILE.py:VARIANT.
    crop: Cropping of the training images: "face" for cropped faces, "detector" for photographs; see `TrainedModel`.
  """
  settings = settings_of(config)
  network = settings.model.build(CLASSES, jnp.dtype(settings.precision), None)
  size = settings.data.image_size or FER2013[1]
  shape = (size, size, FER2013[3])
  params, stats = random_variables(network, (1, *shape))
  return TrainedModel(network, params, stats, EXPRESSIONS, shape, crop, {"config": config})


def step_of(objective: Objective) -> Callable[..., Any]:
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
  memory = compiled.memory_analysis()
  if memory is None:
    raise UserError(
      f"{jax.default_backend()}: this backend does not report the memory of compiled programs; use another"
    )
  run = lambda: jax.block_until_ready(compiled(*arguments))  # noqa: E731
  run()
  return Program(run, memory.temp_size_in_bytes)


def time_by_turns(programs: Mapping[str, Program], rounds: int, calls: int = 0) -> dict[str, float]:
  """Returns the median seconds of each program, with interleaved runs.

  The programs run in round-robin order, so that a temporary slowdown of the machine affects all of them.

  Args:
    programs: Programs by name.
    rounds: Turns of each program.
    calls: Timed runs per turn, after one untimed run that brings the parameters back into the cache; 0 for a single
      timed run per turn.
  """
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, program in programs.items():
      if calls:
        program.run()
      for _ in range(calls or 1):
        start = time.perf_counter()
        program.run()
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in seconds.items()}


def settings_of(config: str) -> Settings:
  """Returns the settings of a config, FILE.py:VARIANT."""
  return parse(load_config(config))


def bottleneck_of(config: str, settings: Settings) -> HsicBottleneck:
  """Returns the HSIC bottleneck objective of a config.

  Raises:
    UserError: No phase of the config has this objective.
  """
  for phase in settings.phases.values():
    if isinstance(phase.objective, HsicBottleneck):
      return phase.objective
  raise UserError(f"--config={config}: has no phase whose objective is hsic_bottleneck; give another config")
