"""Inception v2, or BN-Inception: the table in the appendix of Ioffe & Szegedy 2015 (arXiv:1502.03167)."""

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network


class Widths(NamedTuple):
  """One row of the table: the output channels of the convolutions in each branch of a module.

  Attributes:
    one: Channels of the 1x1 convolution; 0 omits this branch, and the module then halves the resolution.
    three: Channels of the 1x1 convolution and of the 3x3 convolution after it.
    double: Channels of the 1x1 convolution and of each of the two 3x3 convolutions after it.
    pool: Type of the 3x3 pooling, "avg" or "max".
    projection: Channels of the 1x1 convolution after the pooling; 0 omits that convolution.
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
  """Applies parallel branches of several scales to one feature map and concatenates their outputs.

  Attributes:
    widths: Output channels of the branches.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
  """

  widths: Widths
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, C'], or to [B, ceil(H / 2), ceil(W / 2), C'] without the 1x1 branch."""
    widths = self.widths
    stride = 1 if widths.one else 2

    def conv(name: str, features: int, x: jax.Array, size: int = 3, stride: int = 1) -> jax.Array:
      unit = ConvNormAct(features, size, stride, dtype=self.dtype, axis_name=self.axis_name, name=name)
      return unit(x, train=train)

    # Every branch: [B, H, W, C] -> [B, H', W', C_i]
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
  """Hyper-parameters of the network; the widths are those of the table.

  Two things differ from the paper. The 7x7 convolution is an ordinary one (the paper's is separable). Modules 4c and 4d
  have 608 output channels, the sum of their printed branches, whereas the table prints 576; the common port from Caffe
  reads the table in the same way. With 1000 classes that port has 11,295,240 parameters. Of these, 10,016 are biases
  that the following batch normalisation cancels. Without them there are 11,285,224, for either stem.

  Attributes:
    stem: Layers before the modules, which start with a 7x7 convolution: "small", at stride 1, gives 6x6 in the last
      modules for a 48x48 face; "imagenet", at stride 2 and with 3x3 max pooling at stride 2, gives 7x7 for 224x224.
  """

  stem: str = "small"

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    conv = partial(ConvNormAct, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {
      "conv1": conv(64, kernel_size=7, stride=2 if self.stem == "imagenet" else 1),
      "conv2_reduce": conv(64, kernel_size=1),
      "conv2": conv(192),
    }
    stages: dict[str, list[str]] = {"1": ["conv1"], "2": ["conv2_reduce", "conv2"]}
    for name, widths in MODULES.items():
      layers[f"inception_{name}"] = InceptionModule(widths, dtype=dtype, axis_name=axis_name)
      # Modules with the same digit form one block: 3a, 3b and 3c are block 3.
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
