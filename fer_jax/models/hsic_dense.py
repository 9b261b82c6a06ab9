"""The network of Han et al. 2023 (doi:10.12677/sea.2023.122019): dense blocks, feature pyramid, channel attention."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.channel_attention import AttentiveClassifier
from fer_jax.layers.conv_unit import ConvUnit
from fer_jax.layers.pooling import adaptive_average_pool
from fer_jax.models.network import Apply, Network


@dataclasses.dataclass(frozen=True)
class HsicDense:
  """The network's hyper-parameters; the defaults make the paper's three blocks of five and 7.2 M parameters.

  Inside a block each layer reads all earlier outputs of the block, each with a learned weight. Between blocks a 1x1
  transition and a 2x2 average halve the map. A pyramid fuses the blocks from the coarsest to the finest.
  The widths, the stem and the transitions are not printed; they are chosen to meet the printed 7 M.

  Attributes:
    blocks: dense blocks, at least 1.
    convs: layers in each.
    growth: channels of each layer.
    stem: channels of the first convolution.
    stem_stride: of the first convolution; 2 brings a 48x48 face to 24x24.
    transition: channels between blocks.
    pyramid: channels of every pyramid level.
    activation: "relu", "tanh" or "elu", the three that the paper compares.
    head_grid: each level is averaged over a head_grid x head_grid grid; 1 is global average pooling.
    dropout: before the classifier.
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
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    layers = self._layers(num_classes, dtype, axis_name)
    groups = [name.split("_")[0] for name in layers if name != "classifier"]
    blocks = tuple(tuple(name for name in layers if name.split("_")[0] == group) for group in dict.fromkeys(groups))
    return Network(layers, self._walk, blocks, "classifier")

  def _layers(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Mapping[str, nn.Module]:
    """Returns the layers in walk order; the part of a name before "_" says which block a layer belongs to."""

    def unit(features: int, **options: int | bool) -> ConvUnit:
      return ConvUnit(features, activation=self.activation, dtype=dtype, axis_name=axis_name, **options)  # type: ignore[arg-type]

    layers: dict[str, nn.Module] = {"block1_stem": unit(self.stem, stride=self.stem_stride)}
    for block in range(1, self.blocks + 1):
      if block > 1:
        layers[f"block{block}_transition"] = unit(self.transition, kernel_size=1)
      for conv in range(1, self.convs + 1):
        layers[f"block{block}_conv{conv}"] = unit(self.growth, weighted_inputs=True)
      layers[f"block{block}_lateral"] = unit(self.pyramid, kernel_size=1)
    for block in range(self.blocks, 0, -1):
      layers[f"pyramid_level{block}"] = unit(self.pyramid)
    layers["classifier"] = AttentiveClassifier(
      num_classes, cells=self.head_grid**2, dropout=self.dropout, dtype=dtype, axis_name=axis_name
    )
    return layers

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps = [apply("block1_stem", image)]
    laterals: dict[int, jax.Array] = {}
    for block in range(1, self.blocks + 1):
      if block > 1:
        maps = [nn.avg_pool(apply(f"block{block}_transition", *maps), (2, 2), strides=(2, 2))]
      for conv in range(1, self.convs + 1):
        maps.append(apply(f"block{block}_conv{conv}", *maps))
      # Here, not in the pyramid: the block's maps, the largest of the network, are not needed after it.
      laterals[block] = apply(f"block{block}_lateral", *maps)
    merged = laterals[self.blocks]
    levels = []
    for block in range(self.blocks, 0, -1):
      if block < self.blocks:
        merged = laterals[block] + jax.image.resize(merged, laterals[block].shape, "nearest")
      level = adaptive_average_pool(apply(f"pyramid_level{block}", merged), self.head_grid)
      cells = (level.shape[0], self.head_grid, self.head_grid, level.shape[-1])
      levels.append(jax.image.resize(level, cells, "nearest"))  # a level may be smaller than the grid
    features = jnp.concatenate(levels, axis=-1).reshape(image.shape[0], -1)
    return apply("classifier", features), features
