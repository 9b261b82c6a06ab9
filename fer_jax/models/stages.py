"""Stages of blocks, as residual networks have them."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from fer_jax.models.network import Apply


def stages_of(
  prefix: str, counts: Sequence[int], width: int, block: Callable[..., nn.Module]
) -> tuple[dict[str, nn.Module], tuple[tuple[str, ...], ...]]:
  """Makes the blocks of all stages, each with twice the channels of the one before on a map of half the side.

  Args:
    prefix: of the layers' names, before the stage's number from 1 and the block's from 0.
    counts: of blocks, by stage.
    width: channels of the first stage.
    block: (features, stride=...) -> a block.

  Returns:
    the blocks by name, and the names stage by stage.
  """
  names = tuple(tuple(f"{prefix}{stage}_{i}" for i in range(count)) for stage, count in enumerate(counts, start=1))
  layers = {
    name: block(width * 2**stage, stride=2 if stage > 0 and i == 0 else 1)
    for stage, in_stage in enumerate(names)
    for i, name in enumerate(in_stage)
  }
  return layers, names


def in_turn(apply: Apply, stages: Sequence[Sequence[str]], x: jax.Array) -> jax.Array:
  """Applies the layers of all stages, one after another."""
  for names in stages:
    for name in names:
      x = apply(name, x)
  return x
