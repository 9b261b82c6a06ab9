"""Deep residual networks: He et al. 2016 (arXiv:1512.03385); gated, SENet: Hu et al. 2018 (arXiv:1709.01507)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.readout import read_out
from fer_jax.layers.residual_block import ResidualBlock
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK_FROM = 50


class Extractor(NamedTuple):
  """A ResNet without its classifier, to stand alone or beside another one.

  Attributes:
    layers: linen modules by name, the stem and the residual blocks.
    walk: (apply, image [B, H, W, C]) -> the last stage's maps [B, h, w, D].
    blocks: the layers' names, the stem and then stage by stage.
  """

  layers: dict[str, nn.Module]
  walk: Callable[[Apply, jax.Array], jax.Array]
  blocks: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class ResNet:
  """The network's hyper-parameters; with the stem "imagenet" the layout, and so the logits, are torchvision's.

  `ResNet(50)` is ResNet-50, `ResNet(18, squeeze_excite=True)` SE-ResNet-18. The layers are the stem and the residual
  blocks, `layer1_0` and so on, so that a local objective trains a block as one unit. What differs: kernels start from
  the normal distribution of He et al. 2015 over the inputs, and no last normalisation of a block starts at zero.

  Attributes:
    depth: 18 or 34 (blocks of two convolutions), 50 (bottlenecks of three).
    stem: "small", 3x3 at stride 1, brings a 48x48 face to the last stage at 6x6; "imagenet", 7x7 at stride 2 and 3x3
      maxima at stride 2, brings 224x224 to 7x7.
    squeeze_excite: gate the channels of every block.
    width: channels of the first stage; each later one has twice as many.
  """

  depth: int = 18
  stem: str = "small"
  squeeze_excite: bool = False
  width: int = 64

  def __post_init__(self) -> None:
    check_choice("model.depth", self.depth, STAGES)
    check_choice("model.stem", self.stem, STEMS)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    extractor = self.extractor(dtype, axis_name)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(extractor.walk(apply, image))
      return apply("classifier", features), features

    layers = {**extractor.layers, "classifier": LinearClassifier(num_classes, dtype=dtype)}
    return Network(layers, walk, extractor.blocks, "classifier")

  def extractor(self, dtype: jnp.dtype, axis_name: str | None, prefix: str = "") -> Extractor:
    """Returns everything but the classifier, with `prefix` before the name of every layer."""
    stem = partial(ConvNormAct, self.width, dtype=dtype, axis_name=axis_name)
    block = partial(
      ResidualBlock,
      bottleneck=self.depth >= BOTTLENECK_FROM,
      squeeze_excite=self.squeeze_excite,
      dtype=dtype,
      axis_name=axis_name,
    )
    first = f"{prefix}stem"
    layers: dict[str, nn.Module] = {first: stem(kernel_size=7, stride=2) if self.stem == "imagenet" else stem()}
    stages = []
    for stage, count in enumerate(STAGES[self.depth]):
      stages.append(tuple(f"{prefix}layer{stage + 1}_{i}" for i in range(count)))
      for i, name in enumerate(stages[-1]):
        layers[name] = block(self.width * 2**stage, stride=2 if stage > 0 and i == 0 else 1)

    def walk(apply: Apply, image: jax.Array) -> jax.Array:
      x = apply(first, image)
      if self.stem == "imagenet":
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
      for names in stages:
        for name in names:
          x = apply(name, x)
      return x

    return Extractor(layers, walk, ((first,), *stages))
