"""Parts shared by the benchmarks: result type, configs, random data and networks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.config.command_line import load_config
from fer_jax.config.parsing import parse
from fer_jax.config.settings import Settings
from fer_jax.data.arrays import Arrays
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models.network import Network, Tree
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.runtime.errors import UserError

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


def random_arrays(count: int, size: int) -> Arrays:
  """Returns random grey images, uint8 [count, size, size, 1], with random labels, all in the training split."""
  generator = np.random.default_rng(0)
  return Arrays(
    image=generator.integers(0, 256, (count, size, size, FER2013[3]), dtype=np.uint8),
    label=generator.integers(0, CLASSES, count).astype(np.int32),
    subject=np.full(count, ""),
    group=np.arange(count, dtype=np.int32),
    split=np.full(count, "train"),
    class_names=EXPRESSIONS,
  )


def last_line(output: str) -> str:
  """Returns the last line of a program's output, usually its error message; "" if there is none."""
  return "".join(output.strip().splitlines()[-1:])


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
  settings = load_settings(config)
  network = settings.model.build(CLASSES, jnp.dtype(settings.precision), None)
  size = settings.data.image_size or FER2013[1]
  shape = (size, size, FER2013[3])
  params, stats = random_variables(network, (1, *shape))
  return TrainedModel(network, params, stats, EXPRESSIONS, shape, crop, {"config": config})


def load_settings(config: str) -> Settings:
  """Returns the settings of a config, FILE.py:VARIANT."""
  return parse(load_config(config))


def find_bottleneck(config: str, settings: Settings) -> HsicBottleneck:
  """Returns the HSIC bottleneck objective of a config.

  Raises:
    UserError: No phase of the config has this objective.
  """
  for phase in settings.phases.values():
    if isinstance(phase.objective, HsicBottleneck):
      return phase.objective
  raise UserError(f"--config={config}: has no phase whose objective is hsic_bottleneck; give another config")
