"""MobileNetV3: inverted residual blocks from architecture search. Howard et al. 2019 (arXiv:1905.02244)."""

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.attention import SqueezeExcite
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier, LinearUnit
from fer_jax.layers.pooling import read_out
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

EPSILON = 1e-3  # added to the variance
STEM_FEATURES = 16
EXPANSION = 6  # channels of the last convolution, in multiples of its input channels


class Row(NamedTuple):
  """One row of the paper's tables: an inverted residual block, with its widths before the width multiplier.

  Attributes:
    kernel_size: Kernel size of the depthwise convolution.
    expanded: Number of channels inside the block.
    features: Number of output channels.
    squeeze_excite: Whether the channels inside the block have squeeze-and-excitation gates.
    hard_swish: Whether the activation is hard swish; otherwise it is ReLU.
    stride: Stride of the depthwise convolution.
  """

  kernel_size: int
  expanded: int
  features: int
  squeeze_excite: bool
  hard_swish: bool
  stride: int


LARGE = (
  Row(3, 16, 16, False, False, 1),
  Row(3, 64, 24, False, False, 2),
  Row(3, 72, 24, False, False, 1),
  Row(5, 72, 40, True, False, 2),
  Row(5, 120, 40, True, False, 1),
  Row(5, 120, 40, True, False, 1),
  Row(3, 240, 80, False, True, 2),
  Row(3, 200, 80, False, True, 1),
  Row(3, 184, 80, False, True, 1),
  Row(3, 184, 80, False, True, 1),
  Row(3, 480, 112, True, True, 1),
  Row(3, 672, 112, True, True, 1),
  Row(5, 672, 160, True, True, 2),
  Row(5, 960, 160, True, True, 1),
  Row(5, 960, 160, True, True, 1),
)
SMALL = (
  Row(3, 16, 16, True, False, 2),
  Row(3, 72, 24, False, False, 2),
  Row(3, 88, 24, False, False, 1),
  Row(5, 96, 40, True, True, 2),
  Row(5, 240, 40, True, True, 1),
  Row(5, 240, 40, True, True, 1),
  Row(5, 120, 48, True, True, 1),
  Row(5, 144, 48, True, True, 1),
  Row(5, 288, 96, True, True, 2),
  Row(5, 576, 96, True, True, 1),
  Row(5, 576, 96, True, True, 1),
)
ROWS = {"large": LARGE, "small": SMALL}
HIDDEN = {"large": 1280, "small": 1024}


def multiple_of_eight(channels: float) -> int:
  """Rounds to the nearest multiple of 8, to at least 8; rounds up if rounding down would remove more than 10 %."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
  """Applies 1x1 expansion, depthwise convolution, gates and 1x1 projection; adds the input if the shapes agree.

  Attributes:
    row: Hyper-parameters of the block, with the width multiplier applied.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
  """

  row: Row
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    row = self.row
    unit = partial(ConvNormAct, epsilon=EPSILON, dtype=self.dtype, axis_name=self.axis_name)
    activation = nn.hard_swish if row.hard_swish else nn.relu
    y = x
    if row.expanded != x.shape[-1]:  # [B, H, W, C] -> [B, H, W, expanded]
      y = unit(row.expanded, kernel_size=1, activation=activation, name="expand")(y, train=train)
    # [B, H, W, expanded] -> [B, ceil(H / stride), ceil(W / stride), expanded]
    depthwise = unit(
      row.expanded,
      kernel_size=row.kernel_size,
      stride=row.stride,
      groups=row.expanded,
      activation=activation,
      name="depthwise",
    )
    y = depthwise(y, train=train)
    if row.squeeze_excite:
      reduced = multiple_of_eight(row.expanded // 4)
      y = SqueezeExcite(reduced, gate=nn.hard_sigmoid, dtype=self.dtype, name="squeeze_excite")(y, train=train)
    # No activation after the projection: the block has a linear bottleneck.
    y = unit(row.features, kernel_size=1, activation=None, name="project")(y, train=train)
    return x + y if x.shape == y.shape else y


@dataclasses.dataclass(frozen=True)
class MobileNetV3:
  """Hyper-parameters of the network; with the stem "imagenet" the layout, and therefore the logits, are torchvision's.

  With 1000 classes there are 5,483,032 parameters (large) or 2,542,856 (small), for either stem. The hidden layers are
  the stem, the blocks, the last convolution and a fully connected layer. Two things differ from torchvision: the
  running averages have momentum 0.9, not 0.99, and kernels are initialised as in He et al. 2015.

  Attributes:
    size: Size of the network: "large" or "small", the two of the paper.
    stem: Stride of the first 3x3 convolution: "small" (1) gives a last stage of 3x3 for a 48x48 face; "imagenet" (2)
      gives 7x7 for 224x224.
    width: Width multiplier of every number of channels; the products are rounded to multiples of eight.
    dropout: Dropout rate before the classifier.
  """

  size: str = "large"
  stem: str = "small"
  width: float = 1.0
  dropout: float = 0.2

  def __post_init__(self) -> None:
    check_choice("model.size", self.size, ROWS)
    check_choice("model.stem", self.stem, STEMS)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    conv = partial(ConvNormAct, activation=nn.hard_swish, epsilon=EPSILON, dtype=dtype, axis_name=axis_name)
    stride = 2 if self.stem == "imagenet" else 1
    layers: dict[str, nn.Module] = {"stem": conv(self._scaled(STEM_FEATURES), stride=stride)}
    stages: list[list[str]] = [[]]
    for row in ROWS[self.size]:
      # A block at stride 2 starts a new stage, except as the very first block.
      if row.stride == 2 and stages[-1]:
        stages.append([])
      name = f"stage{len(stages)}_{len(stages[-1])}"
      stages[-1].append(name)
      scaled = row._replace(expanded=self._scaled(row.expanded), features=self._scaled(row.features))
      layers[name] = InvertedResidual(scaled, dtype=dtype, axis_name=axis_name)
    layers["head_conv"] = conv(EXPANSION * scaled.features, kernel_size=1)
    layers["head_linear"] = LinearUnit(self._scaled(HIDDEN[self.size]), activation=nn.hard_swish, dtype=dtype)
    layers["classifier"] = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    blocks = (("stem",), *map(tuple, stages), ("head_conv", "head_linear"))
    walk = partial(_walk, [name for stage in stages for name in stage])
    return Network(layers, walk, blocks, "classifier")

  def _scaled(self, channels: int) -> int:
    return multiple_of_eight(channels * self.width)


def _walk(blocks: list[str], apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
  x = apply("stem", image)
  for name in blocks:
    x = apply(name, x)
  x = apply("head_conv", x)
  # [B, h, w, C] -> [B, C] -> [B, hidden]
  features = apply("head_linear", read_out(x))
  return apply("classifier", features), features
