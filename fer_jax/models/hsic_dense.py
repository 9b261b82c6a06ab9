"""The network of Han et al. 2023 (doi:10.12677/sea.2023.122019): dense blocks, feature pyramid, channel attention."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.attention import AttentiveClassifier
from fer_jax.layers.conv_unit import ConvUnit
from fer_jax.layers.pooling import adaptive_average_pool, upsample
from fer_jax.models.network import Apply, Network


@dataclasses.dataclass(frozen=True)
class HsicDense:
  """Hyper-parameters of the network; the defaults are the paper's three blocks of five layers, 7.2 M parameters.

  Inside a block, each layer reads all earlier outputs of the block, each scaled by a learned weight. Between blocks, a
  1x1 transition convolution and 2x2 average pooling halve the resolution. A feature pyramid fuses the blocks from the
  coarsest to the finest. The paper does not give the widths, the stem or the transitions; they are chosen to match the
  7 M parameters that it reports.

  Attributes:
    blocks: Number of dense blocks, at least 1.
    convs: Number of layers in each block.
    growth: Number of output channels of each layer.
    stem: Number of channels of the first convolution.
    stem_stride: Stride of the first convolution; 2 reduces a 48x48 face to 24x24.
    transition: Number of channels of the transitions between blocks.
    pyramid: Number of channels of every pyramid level.
    activation: Activation function: "relu", "tanh" or "elu", the three that the paper compares.
    head_grid: Side of the grid that each pyramid level is averaged over; 1 is global average pooling.
    dropout: Dropout rate before the classifier.
  """

  blocks: int = 3
  convs: int = 5
  growth: int = 128
  stem: int = 64
  stem_stride: int = 2
  transition: int = 128
  pyramid: int = 128
  activation: str = "relu"
  head_grid: int = 1
  dropout: float = 0.0

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    layers = self._layers(num_classes, dtype, axis_name)
    # A block is the layers with the same name up to the first "_": block1, block2, ..., pyramid.
    groups = [name.split("_")[0] for name in layers if name != "classifier"]
    blocks = tuple(tuple(name for name in layers if name.split("_")[0] == group) for group in dict.fromkeys(groups))
    return Network(layers, self._walk, blocks, "classifier")

  def _layers(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Mapping[str, nn.Module]:
    """Returns the layers in walk order; the part of a name before "_" is the block of the layer."""

    def unit(features: int, **options: int | bool) -> ConvUnit:
      return ConvUnit(features, activation=self.activation, dtype=dtype, axis_name=axis_name, **options)  # type: ignore[arg-type]

    layers: dict[str, nn.Module] = {"block1_stem": unit(self.stem, stride=self.stem_stride)}
    for block in range(1, self.blocks + 1):
      for conv in range(1, self.convs + 1):
        layers[f"block{block}_conv{conv}"] = unit(self.growth, weighted_inputs=True)
      layers[f"block{block}_lateral"] = unit(self.pyramid, kernel_size=1)
      if block < self.blocks:
        layers[f"block{block}_transition"] = unit(self.transition, kernel_size=1, pool=2)
    for block in range(self.blocks, 0, -1):
      layers[f"pyramid_level{block}"] = unit(self.pyramid)
    layers["classifier"] = AttentiveClassifier(
      num_classes, cells=self.head_grid**2, dropout=self.dropout, dtype=dtype, axis_name=axis_name
    )
    return layers

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = apply("block1_stem", image)
    laterals: dict[int, jax.Array] = {}
    for block in range(1, self.blocks + 1):
      # All outputs of the block, its input first; each is [B, h, w, C].
      maps = [x]
      for conv in range(1, self.convs + 1):
        maps.append(apply(f"block{block}_conv{conv}", *maps))
      # Computed here and not in the pyramid loop, and in the block that they read: its activations, the largest of the
      # network, are not needed after these lines and can be freed.
      laterals[block] = apply(f"block{block}_lateral", *maps)
      if block < self.blocks:
        x = apply(f"block{block}_transition", *maps)
    merged = laterals[self.blocks]
    levels = []
    for block in range(self.blocks, 0, -1):
      if block < self.blocks:
        # Top-down path: the coarser level is upsampled to the size of this one.
        merged = laterals[block] + upsample(merged, *laterals[block].shape[1:3])
      level = adaptive_average_pool(apply(f"pyramid_level{block}", merged), self.head_grid)
      # A level smaller than the grid is upsampled, so that every level has head_grid**2 cells.
      levels.append(upsample(level, self.head_grid, self.head_grid))
    # blocks x [B, grid, grid, pyramid] -> [B, grid * grid * blocks * pyramid]
    features = jnp.concatenate(levels, axis=-1).reshape(image.shape[0], -1)
    return apply("classifier", features), features
