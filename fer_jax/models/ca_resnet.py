"""The residual network with mixed and coordinate attention of Li & Pan (improved residual network, FER2013)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.attention import MixedAttention
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.convolution import Conv
from fer_jax.layers.coordinate_attention import CoordinateAttention
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.models.network import Apply, Network
from fer_jax.models.stages import in_turn, stages_of

SLOPE = 0.25  # below zero, before anything is learned: He et al. 2015 (arXiv:1502.01852)
_PRELU = partial(nn.PReLU, negative_slope_init=SLOPE)


class CABasicBlock(nn.Module):
  """PReLU(BN(shortcut(x) + CoordinateAttention(residual(x)))) (fig. 6).

  The figure shows the residual branch beside the attention, which re-weights it, and the text has batch normalisation
  and PReLU after the residual module. Three things are silent or contradictory; here:

  - the gates are computed from the residual branch's own output, whose size and channels they have to fit;
  - the shortcut is ResNet's: the input itself, or a strided 1x1 convolution of it where it would not fit. It is not
    normalised alone, since the sum is, so that there are as many normalisations as in ResNet's block;
  - the figure prints "3x3, 64" and "1x1, 256" on the branch, yet the text improves the basic block of ResNet-34, which
    has two 3x3 convolutions. `kernel_sizes` says which there are, all to `features` channels, with BN and PReLU between
    them.

  Attributes:
    features: channels.
    stride: of the whole, at the first of the largest convolutions.
    kernel_sizes: of the residual branch's convolutions, odd, in order.
    reduction: of the coordinate attention.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
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
    # Not at a 1x1 convolution if there is another: with a stride it would never see three places of four.
    strided = self.kernel_sizes.index(max(self.kernel_sizes))
    y = x
    for i, kernel_size in enumerate(self.kernel_sizes):
      if i > 0:
        y = _PRELU(name=f"prelu{i}")(norm(name=f"norm{i}")(y))
      stride = self.stride if i == strided else 1
      y = conv(kernel_size, stride=stride, padding=kernel_size // 2, name=f"conv{i + 1}")(y)
    y = CoordinateAttention(self.reduction, **common, name="attention")(y, train=train)
    if x.shape != y.shape:
      x = conv(1, stride=self.stride, name="shortcut")(x)
    return _PRELU(name="prelu")(norm(name="norm")(x + y))


@dataclasses.dataclass(frozen=True)
class CaResNet:
  """The network's hyper-parameters; the defaults are the paper's.

  Halved image, 3x3 convolution, mixed attention, maxima, four stages of `CABasicBlock`, averages, dropout, classifier.
  A 48x48 face passes the stages at 12, 6, 3 and 2 pixels. Silent in the paper, and ours: the image is halved by 2x2
  averages; BN and PReLU follow the first convolution; the maxima are ResNet's, 3x3 at stride 2; each stage has twice
  the channels of the one before on a map of half the side. All kernels start as He et al. 2015 (arXiv:1502.01852) have
  it. At width 64 there are 11.3 M parameters, or 21.4 M with the blocks (3, 4, 6, 3): those of ResNet-18 and 34, and
  less than 1 % for attention.

  Attributes:
    blocks: of each stage; (2, 2, 2, 2) as drawn, (3, 4, 6, 3) as ResNet-34, which the text names, has it.
    kernel_sizes: of the convolutions in a block's residual branch; (3, 1) and (1, 3) are readings of fig. 6.
    width: channels of the first convolution and stage.
    halve: halve the image first; False brings a 48x48 face to the stages at 24, 12, 6 and 3 pixels.
    reduction: of the channel attention: C / reduction hidden units.
    coordinate_reduction: of the blocks' attention: C / reduction channels in the middle, at least 8.
    dropout: before the classifier.
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
      raise ValueError(f"model.blocks={self.blocks!r}: expected one stage or more, each with a block or more")
    if not self.kernel_sizes or any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
      raise ValueError(f"model.kernel_sizes={self.kernel_sizes!r}: expected one odd number or more, such as 3, 3")
    for key in ("width", "reduction", "coordinate_reduction"):
      if getattr(self, key) < 1:
        raise ValueError(f"model.{key}={getattr(self, key)}: expected 1 or more")
    if not 0 <= self.dropout < 1:
      raise ValueError(f"model.dropout={self.dropout}: expected a share of the features, from 0 to below 1")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    common: dict[str, Any] = {"dtype": dtype, "axis_name": axis_name}
    block = partial(CABasicBlock, kernel_sizes=self.kernel_sizes, reduction=self.coordinate_reduction, **common)
    layers: dict[str, nn.Module] = {
      "stem": ConvNormAct(self.width, activation=_PRELU(), **common),
      "attention": MixedAttention(self.reduction, dtype=dtype),
    }
    blocks, stages = stages_of("layer", self.blocks, self.width, block)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      if self.halve:
        image = nn.avg_pool(image, (2, 2), strides=(2, 2), padding="SAME", count_include_pad=False)
      x = apply("attention", apply("stem", image))
      x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
      features = read_out(in_turn(apply, stages, x))
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, kernel_init=nn.initializers.he_normal(), dtype=dtype)
    return Network({**layers, **blocks, "classifier": head}, walk, (("stem", "attention"), *stages), "classifier")
