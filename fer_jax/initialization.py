"""The parameters that a run begins with: random, or from a file or an earlier run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import pretrained, xla
from fer_jax.errors import UserError
from fer_jax.models.network import Network, Tree
from fer_jax.programs import KeptProgram
from fer_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class Initialization:
  """What a run begins with, known before anything is computed.

  Attributes:
    network: that will learn.
    shapes: (params, stats) as `jax.ShapeDtypeStruct`; among the statistics is what the objectives keep.
    loaded: the layers that are not random, and where they come from; None where all are.
  """

  network: Network
  shapes: tuple[Tree, Tree]
  loaded: pretrained.Loaded | None
  _program: Callable[[], KeptProgram]

  def variables(self, seeds: Sequence[int]) -> list[tuple[Tree, Tree]]:
    """Returns (params, stats) of step 0 in a run of each seed."""
    program = self._program()  # let go of afterwards: on a CPU it holds a hundred megabytes
    drawn = [program(np.int32(seed)) for seed in seeds]
    if self.loaded is None:
      return drawn
    return [({**params, **self.loaded.params}, {**stats, **self.loaded.stats}) for params, stats in drawn]


def initialize(
  settings: Settings, image_shape: tuple[int, ...], num_classes: int, axis_name: str | None = None
) -> Initialization:
  """Builds the network and finds out what a run begins with, and that it fits the network.

  Args:
    settings: of the run.
    image_shape: [H, W, C] of the data.
    num_classes: of the data.
    axis_name: mapped axis of devices that batches are normalised over; None on one device.

  Raises:
    UserError: the images are too small for the network, or `config.pretrained` names nothing that fits it.
  """
  network = settings.model.build(num_classes, jnp.dtype(settings.precision), axis_name)
  objectives = [settings.phases[phase].objective for phase in settings.schedule]

  def begin(seed: jax.Array) -> tuple[Tree, Tree]:
    image = jnp.zeros((1, *image_shape), jnp.float32)
    params, stats = network.init(jax.random.key(seed), image)
    outputs, _ = jax.eval_shape(network.apply, params, stats, image)
    for objective in objectives:
      stats |= objective.statistics(outputs.features.shape[-1], num_classes)
    return params, stats

  identity = f"parameters {(settings.model, settings.precision, image_shape, num_classes, objectives)}"

  def program() -> KeptProgram:
    return KeptProgram(begin, identity, jax.default_backend(), compiler_options=xla.quick_compilation())

  try:
    params, stats = program().shapes(np.int32(0))
  except ValueError as error:
    height, width, _ = image_shape
    raise UserError(f"config.data.image_size: images of {height}x{width} do not fit config.model: {error}") from None
  loaded = _load(settings, network, (params, {name: stats[name] for name in network.layers}))
  return Initialization(network, (params, stats), loaded, program)


def _load(settings: Settings, network: Network, shapes: tuple[Any, Any]) -> pretrained.Loaded | None:
  source = settings.pretrained
  if not source.path:
    if source.required:
      raise UserError(
        "config.pretrained.path is empty, and this config starts from pretrained weights: give a file of torchvision's "
        "(.pth, .safetensors or .npz) or the folder of a finished run; nothing is downloaded"
      )
    return None
  return pretrained.load(
    source.path,
    *shapes,
    extractors=network.extractors,
    classifier=network.classifier,
    keep_classifier=source.classifier,
  )
