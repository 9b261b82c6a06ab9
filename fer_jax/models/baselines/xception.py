"""Xception: separable convolutions with residual connections. Chollet 2017 (arXiv:1610.02357)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

EPSILON = 1e-3  # added to the variance, as in Keras
STEM_FEATURES = 32
# Figure 5: number of channels of the separable convolutions in each module.
ENTRY = ((128, 128), (256, 256), (728, 728))
MIDDLE = ((728, 728, 728),) * 8
EXIT = (728, 1024)
LAST = (1536, 2048)  # after the last module


class SeparableModule(nn.Module):
  """A residual module of separable convolutions, each preceded by a ReLU.

  Attributes:
    features: Number of channels of each convolution.
    halve: Whether the module halves the resolution: 3x3 max pooling at stride 2 after the convolutions, and a 1x1
      convolution at stride 2 on the shortcut.
    rectify_first: Whether a ReLU precedes the first convolution; False if the input is already rectified.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
  """

  features: tuple[int, ...]
  halve: bool = False
  rectify_first: bool = True
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to the same shape, or with `halve` to [B, ceil(H / 2), ceil(W / 2), features[-1]]."""
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
  """Hyper-parameters of the network; with the stem "imagenet" the layout is that of Keras.

  With 1000 classes there are 22,855,952 parameters and 54,528 batch statistics, for either stem: 22,910,480 as counted
  by Keras. With 7 classes and grey images there are 20,820,719 parameters and 54,528 statistics. The paper implemented
  in `models/separable_se.py` prints 33,452,455 parameters for Xception in its table 5; the reason is unknown, because
  it does not describe that network. The hidden layers are the two convolutions, the modules and the last two separable
  convolutions. Two things differ from the original: the running averages have momentum 0.9, not 0.99, and the L2
  penalty of 1e-5 on the weights is left to the optimiser.

  Attributes:
    stem: Stride of the first of two unpadded 3x3 convolutions: "small" (1) gives 3x3 in the last convolutions for a
      48x48 face; "imagenet" (2) gives 10x10 for 299x299.
    width: Number of channels of the first convolution; all other widths are scaled by the same factor and rounded down.
    dropout: Dropout rate before the classifier; the default is the paper's for ImageNet.
  """

  stem: str = "small"
  width: int = STEM_FEATURES
  dropout: float = 0.5

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)
    if self.width < 1:
      raise ValueError(f"model.width={self.width}: expected a number of channels, 1 or more")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
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
    # The layers so far are the hidden ones, in walk order.
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
  features = read_out(x)  # [B, h, w, D] -> [B, D]
  return apply("classifier", features), features
