"""Xception: a network of separable convolutions with residual branches. Chollet 2017 (arXiv:1610.02357)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

EPSILON = 1e-3  # Keras's, for the variance
STEM_FEATURES = 32
# Figure 5: channels of the separable convolutions, module by module.
ENTRY = ((128, 128), (256, 256), (728, 728))
MIDDLE = ((728, 728, 728),) * 8
EXIT = (728, 1024)
LAST = (1536, 2048)  # outside of any module


class SeparableModule(nn.Module):
  """Adds separable convolutions, a rectifier before each, to the module's input.

  Attributes:
    features: channels of each convolution.
    halve: take 3x3 maxima at stride 2 of what the convolutions make, and a 1x1 convolution at stride 2 of the input.
    rectify_first: False where the input has been rectified.
    dtype: of the computation; parameters and statistics stay float32.
    axis_name: mapped axis of devices, over which the statistics are averaged.
  """

  features: tuple[int, ...]
  halve: bool = False
  rectify_first: bool = True
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to the same, or to [B, ceil(H / 2), ceil(W / 2), features[-1]] where it halves."""
    unit: dict[str, Any] = {"activation": None, "epsilon": EPSILON, "dtype": self.dtype, "axis_name": self.axis_name}
    y = x
    for i, features in enumerate(self.features, start=1):
      if i > 1 or self.rectify_first:
        y = nn.relu(y)
      y = SeparableConv(features, name=f"conv{i}", **unit)(y, train=train)
    if not self.halve:
      return x + y
    downsample = ConvNormAct(self.features[-1], kernel_size=1, stride=2, name="downsample", **unit)
    return max_pool(y, (3, 3), (2, 2), "SAME") + downsample(x, train=train)


@dataclasses.dataclass(frozen=True)
class Xception:
  """The network's hyper-parameters; with the stem "imagenet" the layout is Keras's.

  With 1000 classes there are 22,855,952 parameters and 54,528 statistics, whatever the stem: 22,910,480 as Keras
  counts; with 7 classes of grey images 20,820,719 and as many statistics. Table 5 of the paper behind
  `models/separable_se.py` prints 33,452,455 parameters for Xception; why is not known, as it says nothing of its form.
  The layers are the two convolutions, the modules and the last two separable convolutions. What differs: the running
  averages have the momentum 0.9, not 0.99, and the penalty of 1e-5 on the weights' squares is the optimiser's to apply.

  Attributes:
    stem: both begin with 3x3 twice, without padding; "small" at stride 1 brings a 48x48 face to the last convolutions
      at 3x3, "imagenet" at stride 2 brings 299x299 to 10x10.
    width: channels of the first convolution; all others are as many times as wide as in the paper, rounded down.
    dropout: before the classifier; the paper's, on ImageNet.
  """

  stem: str = "small"
  width: int = STEM_FEATURES
  dropout: float = 0.5

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)
    if self.width < 1:
      raise ValueError(f"model.width={self.width}: expected channels, 1 or more")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    conv = partial(ConvNormAct, padding=0, epsilon=EPSILON, dtype=dtype, axis_name=axis_name)
    separable = partial(SeparableConv, epsilon=EPSILON, dtype=dtype, axis_name=axis_name)
    module = partial(SeparableModule, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {
      "conv1": conv(self.width, stride=2 if self.stem == "imagenet" else 1),
      "conv2": conv(2 * self.width),
    }
    for i, features in enumerate(ENTRY, start=1):
      layers[f"entry{i}"] = module(self._scaled(features), halve=True, rectify_first=i > 1)
    middle = tuple(f"middle{i}" for i in range(1, len(MIDDLE) + 1))
    layers |= {name: module(self._scaled(features)) for name, features in zip(middle, MIDDLE, strict=True)}
    layers["exit"] = module(self._scaled(EXIT), halve=True)
    layers |= {f"last{i}": separable(features) for i, features in enumerate(self._scaled(LAST), start=1)}
    walk = partial(_walk, tuple(layers))
    layers["classifier"] = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    entry = tuple((f"entry{i}",) for i in range(1, len(ENTRY) + 1))
    return Network(layers, walk, (("conv1", "conv2"), *entry, middle, ("exit",), ("last1", "last2")), "classifier")

  def _scaled(self, channels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, features * self.width // STEM_FEATURES) for features in channels)


def _walk(hidden: tuple[str, ...], apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
  x = image
  for name in hidden:
    x = apply(name, x)
  features = read_out(x)
  return apply("classifier", features), features
