"""Deep residual networks: He et al. 2016 (arXiv:1512.03385); gated, SENet: Hu et al. 2018 (arXiv:1709.01507)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.layers.residual_block import ResidualBlock
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Apply, Extractor, Network
from fer_jax.models.stages import in_turn, stages_of

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK_FROM = 50
# Kernel size and stride of the first convolution, by the name of the stem.
STEMS = {"small": (3, 1), "strided": (3, 2), "imagenet": (7, 2)}
MODULES = 3  # of the CIFAR family, with as many blocks each
KINDS = ("residual", "plain")
# He et al. 2015 (arXiv:1502.01852): not truncated, as Caffe's filler "msra" is not.
MSRA = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class ResNet:
  """The network's hyper-parameters; with the stem "imagenet" the layout, and so the logits, are torchvision's.

  `ResNet(50)` is ResNet-50, `ResNet(18, squeeze_excite=True)` SE-ResNet-18. The layers are the stem and the residual
  blocks, `layer1_0` and so on, so that a local objective trains a block as one unit. What differs: kernels start from
  the normal distribution of He et al. 2015 over the inputs, and no last normalisation of a block starts at zero.

  Attributes:
    depth: 18 or 34 (blocks of two convolutions), 50 (bottlenecks of three).
    stem: "small", 3x3 at stride 1, brings a 48x48 face to the last stage at 6x6; "strided", 3x3 at stride 2, to 3x3
      at a quarter of the cost; "imagenet", 7x7 at stride 2 and 3x3 maxima at stride 2, brings 224x224 to 7x7.
    squeeze_excite: gate the channels of every block.
    width: channels of the first stage; each later one has twice as many.
    blocks: Number of blocks in each stage, where they are not those of `depth`; (2, 2, 2) leaves the last stage out.
  """

  depth: int = 18
  stem: str = "small"
  squeeze_excite: bool = False
  width: int = 64
  blocks: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    check_choice("model.depth", self.depth, STAGES)
    check_choice("model.stem", self.stem, STEMS)
    if self.blocks and min(self.blocks) < 1:
      raise ValueError(
        f"model.blocks={self.blocks!r}: expected one block or more in each stage, or none for those of depth"
      )

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
    kernel_size, stride = STEMS[self.stem]
    layers: dict[str, nn.Module] = {first: stem(kernel_size=kernel_size, stride=stride)}
    blocks, stages = stages_of(f"{prefix}layer", self.blocks or STAGES[self.depth], self.width, block)
    layers |= blocks

    def walk(apply: Apply, image: jax.Array) -> jax.Array:
      x = apply(first, image)
      if self.stem == "imagenet":
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
      return in_turn(apply, stages, x)

    return Extractor(layers, walk, ((first,), *stages))


@dataclasses.dataclass(frozen=True)
class CifarResNet:
  """The hyper-parameters of the residual network of 6n + 2 layers: He et al. 2016, section 4.2, there for CIFAR-10.

  A 3x3 convolution; three modules of n blocks of two 3x3 convolutions, of which the second and the third begin with
  stride 2; global average pooling; a classifier. Lu et al. (Facial Expression Recognition Based on Deep Residual
  Network) put a 1x1 convolution on the shortcut branch of the first block of those two modules, where He et al. pad
  with zeros; so does this. Shortcut branches do not count in the depth. Kernels start from N(0, 2 / fan-in), the
  classifier from zero. Images may have any size: the last maps are a quarter of it, 32x32 for 128x128.

  Attributes:
    depth: 6n + 2: 8, 14, 20 and so on.
    kind: "residual", or "plain": the same without its shortcut branches.
    width: channels of the first module; each later one has twice as many.
    first: channels of the first convolution; 0 for `width`. Any other number gives the first block of the first
      module a 1x1 convolution on its shortcut branch too, for the channels to fit.
  """

  depth: int = 20
  kind: str = "residual"
  width: int = 16
  first: int = 0

  def __post_init__(self) -> None:
    if self.depth < 8 or self.depth % 6 != 2:
      raise ValueError(f"model.depth={self.depth}: expected 6n + 2, such as 8, 20, 38, 56 or 74")
    check_choice("model.kind", self.kind, KINDS)
    if self.width < 1:
      raise ValueError(f"model.width={self.width}: expected channels, 1 or more")
    if self.first < 0:
      raise ValueError(f"model.first={self.first}: expected channels, 0 for those of model.width")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    common: dict[str, Any] = {"kernel_init": MSRA, "dtype": dtype, "axis_name": axis_name}
    block = partial(ResidualBlock, shortcut=self.kind == "residual", **common)
    blocks, modules = stages_of("module", (self.depth // 6,) * MODULES, self.width, block)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(in_turn(apply, modules, apply("stem", image)))
      return apply("classifier", features), features

    layers = {
      "stem": ConvNormAct(self.first or self.width, **common),
      **blocks,
      "classifier": LinearClassifier(num_classes, kernel_init=nn.initializers.zeros, dtype=dtype),
    }
    return Network(layers, walk, (("stem",), *modules), "classifier")
