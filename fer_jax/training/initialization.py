"""Initial parameters of a run: random, or from a file or an earlier run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import pretrained
from fer_jax.config.settings import Settings
from fer_jax.models.network import Network, Tree, inference_parameters
from fer_jax.runtime import xla
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.programs import CachedProgram


@dataclasses.dataclass(frozen=True)
class Initialization:
  """The network of a run and its initial variables, which are computed on demand.

  Attributes:
    network: Network to train.
    shapes: Shapes of (params, stats) as `jax.ShapeDtypeStruct`; the statistics include the state of the objectives.
    loaded: Pretrained layers and their origin; None if all layers are random.
  """

  network: Network
  shapes: tuple[Tree, Tree]
  loaded: pretrained.PretrainedLayers | None
  _program: Callable[[], CachedProgram]

  def variables(self, seeds: Sequence[int]) -> list[tuple[Tree, Tree]]:
    """Returns the initial (params, stats) for each seed."""
    # Not stored in a field, so that it is freed on return: on a CPU it takes a hundred megabytes.
    program = self._program()
    drawn = [program(np.int32(seed)) for seed in seeds]
    if self.loaded is None:
      return drawn
    # Pretrained layers replace random ones, except the parameters of local losses; the same for every seed.
    return [
      (
        params | {name: params[name] | loaded for name, loaded in self.loaded.params.items()},
        {**stats, **self.loaded.stats},
      )
      for params, stats in drawn
    ]


def initialize(
  settings: Settings, image_shape: tuple[int, ...], num_classes: int, axis_name: str | None = None
) -> Initialization:
  """Builds the network, loads pretrained weights and checks that images and weights fit the network.

  Args:
    settings: Settings of the run.
    image_shape: Shape (H, W, C) of an image.
    num_classes: Number of classes.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.

  Raises:
    UserError: The images are too small for the network, or `config.pretrained` names no weights that fit it.
  """
  network = settings.model.build(num_classes, jnp.dtype(settings.precision), axis_name)
  objectives = [settings.phases[phase].objective for phase in settings.schedule]

  def begin(seed: jax.Array) -> tuple[Tree, Tree]:
    image = jnp.zeros((1, *image_shape), jnp.float32)
    key = jax.random.key(seed)
    variables = network.init(key, image)
    for objective in objectives:
      variables = objective.initial(network, variables, image, key)
    return variables

  # Everything that the trace of `begin` depends on; see `CachedProgram`.
  identity = f"parameters {(settings.model, settings.precision, image_shape, num_classes, objectives)}"

  def program() -> CachedProgram:
    return CachedProgram(begin, identity, jax.default_backend(), compiler_options=xla.quick_compilation())

  try:  # traced, not run: a network whose strides leave nothing of the image raises ValueError
    params, stats = program().shapes(np.int32(0))
  except ValueError as error:
    height, width, _ = image_shape
    raise UserError(f"config.data.image_size: images of {height}x{width} do not fit config.model: {error}") from None
  loaded = _load(settings, network, (inference_parameters(params), {name: stats[name] for name in network.layers}))
  return Initialization(network, (params, stats), loaded, program)


def _load(settings: Settings, network: Network, shapes: tuple[Any, Any]) -> pretrained.PretrainedLayers | None:
  source = settings.pretrained
  if not source.path:
    if source.required:
      raise UserError(
        "config.pretrained.path is empty, but this config requires pretrained weights: set it to a file of torchvision "
        "weights (.pth, .safetensors or .npz), as python -m fer_jax.apps.fetch resnet34 downloads it, or to the folder "
        "of a finished run"
      )
    return None
  return pretrained.load(
    source.path,
    *shapes,
    extractors=network.extractors,
    classifier=network.classifier,
    keep_classifier=source.classifier,
  )
