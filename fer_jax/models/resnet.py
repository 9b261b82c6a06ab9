"""Residual networks: ResNet (He et al. 2016, arXiv:1512.03385) and SENet (Hu et al. 2018, arXiv:1709.01507)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.layers.residual_block import ResidualBlock
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Apply, Extractor, Network
from fer_jax.models.stages import apply_stages, build_stages

# Number of blocks in each stage, by depth.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK_FROM = 50  # smallest depth with bottleneck blocks
# Kernel size and stride of the first convolution, by name of the stem.
STEMS = {"small": (3, 1), "strided": (3, 2), "imagenet": (7, 2)}
MODULES = 3  # in the CIFAR networks; all have the same number of blocks
KINDS = ("residual", "plain")
# Initialisation of He et al. 2015 (arXiv:1502.01852) from a normal distribution that is not truncated, like Caffe's
# filler "msra".
MSRA = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class ResNet:
  """Hyper-parameters of the network; with the stem "imagenet" the layout, and therefore the logits, are torchvision's.

  `ResNet(50)` is ResNet-50 and `ResNet(18, squeeze_excite=True)` is SE-ResNet-18. The layers are the stem and the
  residual blocks (`layer1_0` and so on), so that a local objective trains a block as one unit. Two things differ from
  the original: kernels are initialised from the fan-in normal distribution of He et al. 2015, truncated at two standard
  deviations, and the scale of the last normalisation in a block is not initialised to zero.

  Attributes:
    depth: Number of layers: 18 or 34 (blocks of two convolutions) or 50 (bottlenecks of three).
    stem: Layers before the first stage: "small", 3x3 at stride 1, gives a last stage of 6x6 for a 48x48 face;
      "strided", 3x3 at stride 2, gives 3x3 at a quarter of the cost; "imagenet", 7x7 at stride 2 and 3x3 max pooling at
      stride 2, gives 7x7 for 224x224.
    squeeze_excite: Whether every block has squeeze-and-excitation gates.
    width: Number of channels of the first stage; each later stage has twice as many.
    blocks: Number of blocks in each stage; () for those of `depth`. (2, 2, 2) omits the last stage.
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
        f"model.blocks={self.blocks!r}: expected at least one block in each stage, or empty for those of model.depth"
      )

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    extractor = self.extractor(dtype, axis_name)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(extractor.walk(apply, image))
      return apply("classifier", features), features

    layers = {**extractor.layers, "classifier": LinearClassifier(num_classes, dtype=dtype)}
    return Network(layers, walk, extractor.blocks, "classifier")

  def extractor(self, dtype: jnp.dtype, axis_name: str | None, prefix: str = "") -> Extractor:
    """Returns the network without its classifier.

    Args:
      dtype: Dtype of the computation.
      axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
      prefix: Start of the name of every layer.
    """
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
    blocks, stages = build_stages(f"{prefix}layer", self.blocks or STAGES[self.depth], self.width, block)
    layers |= blocks

    def walk(apply: Apply, image: jax.Array) -> jax.Array:
      x = apply(first, image)
      if self.stem == "imagenet":  # [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C]
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
      return apply_stages(apply, stages, x)

    return Extractor(layers, walk, ((first,), *stages))


@dataclasses.dataclass(frozen=True)
class CifarResNet:
  """Hyper-parameters of the residual network of 6n + 2 layers: He et al. 2016, section 4.2, designed for CIFAR-10.

  The network is a 3x3 convolution, three modules of n blocks of two 3x3 convolutions, global average pooling and a
  classifier. The second and third module start with stride 2. In the first block of these two modules, the shortcut
  branch is a 1x1 convolution, as in Lu et al. (Facial Expression Recognition Based on Deep Residual Network), where He
  et al. pad with zeros. Shortcut branches do not count towards the depth. Kernels are initialised from
  N(0, 2 / fan-in), the classifier with zeros. Images may have any size; the last feature map has a quarter of their
  height and width, such as 32x32 for 128x128.

  Attributes:
    depth: Number of layers, 6n + 2: 8, 14, 20 and so on.
    kind: Kind of network: "residual", or "plain", which has no shortcut branches.
    width: Number of channels of the first module; each later module has twice as many.
    first: Number of channels of the first convolution; 0 for `width`. With any other number, the first block of the
      first module also has a 1x1 convolution on its shortcut branch, to match the channels.
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
      raise ValueError(f"model.width={self.width}: expected a number of channels, 1 or more")
    if self.first < 0:
      raise ValueError(f"model.first={self.first}: expected a number of channels, or 0 for model.width")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    common: dict[str, Any] = {"kernel_init": MSRA, "dtype": dtype, "axis_name": axis_name}
    block = partial(ResidualBlock, shortcut=self.kind == "residual", **common)
    blocks, modules = build_stages("module", (self.depth // 6,) * MODULES, self.width, block)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(apply_stages(apply, modules, apply("stem", image)))
      return apply("classifier", features), features

    layers = {
      "stem": ConvNormAct(self.first or self.width, **common),
      **blocks,
      "classifier": LinearClassifier(num_classes, kernel_init=nn.initializers.zeros, dtype=dtype),
    }
    return Network(layers, walk, (("stem",), *modules), "classifier")
