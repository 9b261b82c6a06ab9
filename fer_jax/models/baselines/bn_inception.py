"""Inception v2, also BN-Inception: Ioffe & Szegedy 2015 (arXiv:1502.03167), the appendix's table."""

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network


class Widths(NamedTuple):
  """One row of the table: the channels of a module's branches, as they leave each convolution.

  Attributes:
    one: of the 1x1 convolution; 0 leaves the branch out, and makes the module halve the map.
    three: of the 1x1 convolution and the 3x3 after it.
    double: of the 1x1 convolution and both 3x3 after it.
    pool: "avg" or "max", over 3x3.
    projection: of the 1x1 convolution after the pool; 0 passes the pool through.
  """

  one: int
  three: tuple[int, int]
  double: tuple[int, int]
  pool: str
  projection: int


MODULES = {
  "3a": Widths(64, (64, 64), (64, 96), "avg", 32),
  "3b": Widths(64, (64, 96), (64, 96), "avg", 64),
  "3c": Widths(0, (128, 160), (64, 96), "max", 0),
  "4a": Widths(224, (64, 96), (96, 128), "avg", 128),
  "4b": Widths(192, (96, 128), (96, 128), "avg", 128),
  "4c": Widths(160, (128, 160), (128, 160), "avg", 128),
  "4d": Widths(96, (128, 192), (160, 192), "avg", 128),
  "4e": Widths(0, (128, 192), (192, 256), "max", 0),
  "5a": Widths(352, (192, 320), (160, 224), "avg", 128),
  "5b": Widths(352, (192, 320), (192, 224), "max", 128),
}


class InceptionModule(nn.Module):
  """Looks at a map at several scales side by side, and concatenates what each branch sees."""

  widths: Widths
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C'], or to half of H and W, rounded up, where there is no 1x1 branch."""
    widths = self.widths
    stride = 1 if widths.one else 2

    def conv(name: str, features: int, x: jax.Array, size: int = 3, stride: int = 1) -> jax.Array:
      unit = ConvNormAct(features, size, stride, dtype=self.dtype, axis_name=self.axis_name, name=name)
      return unit(x, train=train)

    branches = [conv("one", widths.one, x, size=1)] if widths.one else []
    y = conv("three_reduce", widths.three[0], x, size=1)
    branches.append(conv("three", widths.three[1], y, stride=stride))
    y = conv("double_reduce", widths.double[0], x, size=1)
    y = conv("double1", widths.double[1], y)
    branches.append(conv("double2", widths.double[1], y, stride=stride))
    pool = nn.avg_pool if widths.pool == "avg" else max_pool
    y = pool(x, (3, 3), (stride, stride), "SAME")
    branches.append(conv("projection", widths.projection, y, size=1) if widths.projection else y)
    return jnp.concatenate(branches, axis=-1)


@dataclasses.dataclass(frozen=True)
class BnInception:
  """The network's hyper-parameters; the table's widths are fixed.

  What differs from the paper: the 7x7 convolution is a plain one (theirs is separable), and modules 4c and 4d leave
  608 channels, the sum of their printed branches, where the table prints 576. The common port from Caffe reads
  the table so too. With 1000 classes that port has 11,295,240 parameters, of which 10,016 are biases of convolutions
  that normalisation cancels: without them there are 11,285,224, whatever the stem.

  Attributes:
    stem: both begin with 7x7; "small" at stride 1 brings a 48x48 face to the last modules at 6x6, "imagenet" at
      stride 2 with 3x3 maxima at stride 2 brings 224x224 to 7x7.
  """

  stem: str = "small"

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    conv = partial(ConvNormAct, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {
      "conv1": conv(64, kernel_size=7, stride=2 if self.stem == "imagenet" else 1),
      "conv2_reduce": conv(64, kernel_size=1),
      "conv2": conv(192),
    }
    stages: dict[str, list[str]] = {"1": ["conv1"], "2": ["conv2_reduce", "conv2"]}
    for name, widths in MODULES.items():
      layers[f"inception_{name}"] = InceptionModule(widths, dtype=dtype, axis_name=axis_name)
      stages.setdefault(name[0], []).append(f"inception_{name}")
    layers["classifier"] = LinearClassifier(num_classes, dtype=dtype)
    return Network(layers, self._walk, tuple(map(tuple, stages.values())), "classifier")

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    halve = partial(max_pool, window=(3, 3), strides=(2, 2), padding="SAME")
    x = apply("conv1", image)
    if self.stem == "imagenet":
      x = halve(x)
    x = halve(apply("conv2", apply("conv2_reduce", x)))
    for name in MODULES:
      x = apply(f"inception_{name}", x)
    features = read_out(x)
    return apply("classifier", features), features
