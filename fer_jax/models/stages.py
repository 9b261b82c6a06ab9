"""Stages of blocks, as in residual networks."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from fer_jax.models.network import Apply


def build_stages(
  prefix: str, counts: Sequence[int], width: int, block: Callable[..., nn.Module]
) -> tuple[dict[str, nn.Module], tuple[tuple[str, ...], ...]]:
  """Builds the blocks of all stages.

  Each stage has twice the channels of the previous one, at half its height and width.

  Args:
    prefix: Start of every layer name, followed by the stage number (from 1) and the block number (from 0), as in
      `layer1_0`.
    counts: Number of blocks in each stage.
    width: Number of channels in the first stage.
    block: Function (features, stride=...) -> block.

  Returns:
    The blocks by name, and their names grouped by stage.
  """
  names = tuple(tuple(f"{prefix}{stage}_{i}" for i in range(count)) for stage, count in enumerate(counts, start=1))
  # The first block of every stage except the first halves the resolution.
  layers = {
    name: block(width * 2**stage, stride=2 if stage > 0 and i == 0 else 1)
    for stage, in_stage in enumerate(names)
    for i, name in enumerate(in_stage)
  }
  return layers, names


def apply_stages(apply: Apply, stages: Sequence[Sequence[str]], x: jax.Array) -> jax.Array:
  """Applies the layers of all stages to x in order; returns the last output."""
  for names in stages:
    for name in names:
      x = apply(name, x)
  return x
