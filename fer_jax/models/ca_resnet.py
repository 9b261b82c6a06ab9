"""The residual network with mixed and coordinate attention of Li & Pan (an improved residual network, FER2013)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.attention import CoordinateAttention, MixedAttention
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.models.network import Apply, Network
from fer_jax.models.stages import apply_stages, build_stages

SLOPE = 0.25  # initial slope of PReLU below zero: He et al. 2015 (arXiv:1502.01852)
_PRELU = partial(nn.PReLU, negative_slope_init=SLOPE)


class CABasicBlock(nn.Module):
  """PReLU(BN(shortcut(x) + CoordinateAttention(residual(x)))) (fig. 6).

  The figure shows the residual branch next to the attention that re-weights it. The text puts batch normalisation (BN)
  and PReLU after the residual module. The paper is unclear or contradictory on three points, where this block decides:

  - The attention gates are computed from the output of the residual branch, whose shape they must match.
  - The shortcut is ResNet's: the input itself, or a strided 1x1 convolution of it if the shapes differ. It has no BN of
    its own because the sum is normalised, so that the number of BN layers is that of ResNet's block.
  - The figure prints "3x3, 64" and "1x1, 256" on the residual branch, but the text improves the basic block of
    ResNet-34, which has two 3x3 convolutions. `kernel_sizes` sets the convolutions. All have `features` output
    channels, with BN and PReLU between them.

  Attributes:
    features: Number of output channels.
    stride: Stride of the block, applied in the first of the convolutions with the largest kernel.
    kernel_sizes: Odd kernel sizes of the convolutions in the residual branch, in order.
    reduction: Reduction ratio of the coordinate attention.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
  """

  features: int
  stride: int = 1
  kernel_sizes: tuple[int, ...] = (3, 3)
  reduction: int = 32
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    common: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, **common)
    conv = partial(Conv, self.features, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
    # Not in a 1x1 convolution if there is a larger one: at stride 2 it would ignore three of four positions.
    strided = self.kernel_sizes.index(max(self.kernel_sizes))
    y = x
    for i, kernel_size in enumerate(self.kernel_sizes):
      if i > 0:
        y = _PRELU(name=f"prelu{i}")(norm(name=f"norm{i}")(y))
      stride = self.stride if i == strided else 1
      y = conv(kernel_size, stride=stride, padding=kernel_size // 2, name=f"conv{i + 1}")(y)
    y = CoordinateAttention(self.reduction, **common, name="attention")(y, train=train)
    # The stride or the number of channels changed: project the shortcut to the shape of y.
    if x.shape != y.shape:
      x = conv(1, stride=self.stride, name="shortcut")(x)
    return _PRELU(name="prelu")(norm(name="norm")(x + y))


@dataclasses.dataclass(frozen=True)
class CaResNet:
  """Hyper-parameters of the network; the defaults are the paper's.

  The network halves the image, then applies a 3x3 convolution, mixed attention, max pooling, four stages of
  `CABasicBlock`, global average pooling, dropout and the classifier. The stages of a 48x48 face have 12, 6, 3 and 2
  pixels a side.

  The paper does not specify the following, and the choices are ours: 2x2 average pooling halves the image; BN and PReLU
  follow the first convolution; the max pooling is ResNet's, 3x3 at stride 2; each stage has twice the channels of the
  previous one at half its height and width. All kernels are initialised as in He et al. 2015 (arXiv:1502.01852). At
  width 64 there are 11.3 M parameters, or 21.4 M with the blocks (3, 4, 6, 3): those of ResNet-18 and ResNet-34, plus
  less than 1 % for attention.

  Attributes:
    blocks: Number of blocks in each stage; (2, 2, 2, 2) in the paper's figure, (3, 4, 6, 3) in ResNet-34, which its
      text names.
    kernel_sizes: Kernel sizes in the residual branch of a block; (3, 1) and (1, 3) are possible readings of fig. 6.
    width: Number of channels of the first convolution and the first stage.
    halve: Whether the image is halved first; if False, the stages of a 48x48 face have 24, 12, 6 and 3 pixels a side.
    reduction: Reduction ratio of the channel attention: C / reduction hidden units.
    coordinate_reduction: Reduction ratio of the coordinate attention in the blocks: C / reduction hidden channels, at
      least 8.
    dropout: Dropout rate before the classifier.
  """

  blocks: tuple[int, ...] = (2, 2, 2, 2)
  kernel_sizes: tuple[int, ...] = (3, 3)
  width: int = 64
  halve: bool = True
  reduction: int = 16
  coordinate_reduction: int = 32
  dropout: float = 0.3

  def __post_init__(self) -> None:
    if not self.blocks or min(self.blocks) < 1:
      raise ValueError(f"model.blocks={self.blocks!r}: expected at least one stage, each with at least one block")
    if not self.kernel_sizes or any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
      raise ValueError(f"model.kernel_sizes={self.kernel_sizes!r}: expected at least one odd number, such as 3, 3")
    for key in ("width", "reduction", "coordinate_reduction"):
      if getattr(self, key) < 1:
        raise ValueError(f"model.{key}={getattr(self, key)}: expected 1 or more")
    if not 0 <= self.dropout < 1:
      raise ValueError(f"model.dropout={self.dropout}: expected a rate, 0 <= dropout < 1")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    common: dict[str, Any] = {"dtype": dtype, "axis_name": axis_name}
    block = partial(CABasicBlock, kernel_sizes=self.kernel_sizes, reduction=self.coordinate_reduction, **common)
    layers: dict[str, nn.Module] = {
      "stem": ConvNormAct(self.width, activation=_PRELU(), **common),
      "attention": MixedAttention(self.reduction, dtype=dtype),
    }
    blocks, stages = build_stages("layer", self.blocks, self.width, block)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      if self.halve:
        # SAME without counting the padding: an odd last row or column is averaged over the pixels it has.
        image = nn.avg_pool(image, (2, 2), strides=(2, 2), padding="SAME", count_include_pad=False)
      x = apply("attention", apply("stem", image))
      # Padding of one pixel, as in torchvision's ResNet: [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C].
      x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
      features = read_out(apply_stages(apply, stages, x))
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, kernel_init=nn.initializers.he_normal(), dtype=dtype)
    return Network({**layers, **blocks, "classifier": head}, walk, (("stem", "attention"), *stages), "classifier")
