"""The parameters that a run begins with: random, or from a file or an earlier run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax import pretrained, xla
from fer_jax.errors import UserError
from fer_jax.models.network import Network, Tree
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
  _random: Callable[[int], tuple[Tree, Tree]]

  def variables(self, seed: int) -> tuple[Tree, Tree]:
    """Returns (params, stats) of step 0 in a run of that seed."""
    params, stats = self._random(seed)
    if self.loaded is None:
      return params, stats
    return {**params, **self.loaded.params}, {**stats, **self.loaded.stats}


def initialize(settings: Settings, network: Network, image_shape: tuple[int, ...]) -> Initialization:
  """Finds out what a run begins with, and that it fits the network.

  Args:
    settings: of the run.
    network: that will learn.
    image_shape: [H, W, C] of the data.

  Raises:
    UserError: the images are too small for the network, or `config.pretrained` names nothing that fits it.
  """
  init = jax.jit(network.init, compiler_options=xla.quick_compilation())
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  try:
    shapes = init.eval_shape(jax.random.key(0), image)
  except ValueError as error:
    height, width, _ = image_shape
    raise UserError(f"config.data.image_size: images of {height}x{width} do not fit config.model: {error}") from None
  loaded = _load(settings, network, shapes)
  kept = _kept_by_objectives(settings, network, shapes, image)

  def random(seed: int) -> tuple[Tree, Tree]:
    params, stats = init(jax.random.key(seed), jnp.zeros(image.shape, image.dtype))
    return params, {**stats, **kept}

  params, stats = shapes
  return Initialization(network, (params, {**stats, **jax.eval_shape(lambda: kept)}), loaded, random)


def _kept_by_objectives(
  settings: Settings, network: Network, shapes: tuple[Tree, Tree], image: jax.ShapeDtypeStruct
) -> Tree:
  """Returns what the objectives of all phases keep from step to step, as it is before the first."""
  outputs, _ = jax.eval_shape(network.apply, *shapes, image)
  sizes = outputs.features.shape[-1], outputs.logits.shape[-1]
  return {
    name: value
    for phase in settings.schedule
    for name, value in settings.phases[phase].objective.statistics(*sizes).items()
  }


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
    Path(source.path).expanduser(),
    *shapes,
    extractors=network.extractors,
    classifier=network.classifier,
    keep_classifier=source.classifier,
  )
