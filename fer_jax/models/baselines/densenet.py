"""DenseNet: each layer reads all earlier outputs of its block. Huang et al. 2017 (arXiv:1608.06993)."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

BOTTLENECK = 4  # channels of the 1x1 convolution, in multiples of the growth


class NormAct(nn.Module):
  """Concatenates its inputs channel-wise, then applies batch normalisation and ReLU."""

  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """Maps inputs [B, H, W, C_i] to [B, H, W, sum of C_i]."""
    norm = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm"
    )
    return nn.relu(norm(jnp.concatenate(inputs, axis=-1)))


class NormActConv(nn.Module):
  """Concatenates its inputs, then applies batch normalisation, ReLU and a convolution without bias, in that order."""

  features: int
  kernel_size: int = 1
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """Maps inputs [B, H, W, C_i] to [B, H, W, features]."""
    x = NormAct(self.dtype, self.axis_name, name="preactivation")(*inputs, train=train)
    conv = Conv(
      self.features,
      self.kernel_size,
      padding=self.kernel_size // 2,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.he_normal(),
      name="conv",
    )
    return conv(x)


class DenseLayer(nn.Module):
  """Computes `growth` new channels from all earlier outputs of the block, through a 1x1 bottleneck."""

  growth: int
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
    """Maps inputs [B, H, W, C_i] to [B, H, W, growth]."""
    unit = partial(NormActConv, dtype=self.dtype, axis_name=self.axis_name)
    x = unit(BOTTLENECK * self.growth, name="conv1")(*inputs, train=train)
    return unit(self.growth, kernel_size=3, name="conv2")(x, train=train)


@dataclasses.dataclass(frozen=True)
class DenseNet:
  """Hyper-parameters of the network; except for the strides of the stem, the defaults are those of DenseNet-121.

  With the stem "imagenet" the layout is torchvision's. With 1000 classes there are 7,978,856 parameters, for either
  stem. A transition halves the channels, then applies 2x2 average pooling. The only difference from the paper's
  ImageNet networks is the initialisation of the kernels: He et al. 2015, as in torchvision.

  Attributes:
    layers: Number of layers in each dense block; (6, 12, 24, 16) is the network with 121 weight layers.
    growth: Number of new channels per layer; the stem has twice as many.
    stem: Layers before the blocks, which start with a 7x7 convolution: "small", at stride 1, gives 6x6 in the last
      block for a 48x48 face; "imagenet", at stride 2 and with 3x3 max pooling at stride 2, gives 7x7 for 224x224.
  """

  layers: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32
  stem: str = "small"

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)
    if not self.layers or min(self.layers) < 1:
      raise ValueError(f"model.layers={self.layers!r}: expected at least one block, each with at least one layer")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    stride = 2 if self.stem == "imagenet" else 1
    channels = 2 * self.growth
    layers: dict[str, nn.Module] = {
      "stem": ConvNormAct(channels, kernel_size=7, stride=stride, dtype=dtype, axis_name=axis_name)
    }
    for block, names in enumerate(self._blocks(), start=1):
      if block > 1:
        channels //= 2
        layers[f"transition{block - 1}"] = NormActConv(channels, dtype=dtype, axis_name=axis_name)
      layers |= {name: DenseLayer(self.growth, dtype=dtype, axis_name=axis_name) for name in names}
      channels += self.growth * len(names)
    layers["norm"] = NormAct(dtype, axis_name)
    layers["classifier"] = LinearClassifier(num_classes, dtype=dtype)
    return Network(layers, self._walk, self._groups(), "classifier")

  def _blocks(self) -> list[tuple[str, ...]]:
    return [tuple(f"block{i}_{j}" for j in range(1, n + 1)) for i, n in enumerate(self.layers, start=1)]

  def _groups(self) -> tuple[tuple[str, ...], ...]:
    """Returns the hidden layers in walk order; a transition belongs to the block after it."""
    first, *others = self._blocks()
    return (("stem", *first), *((f"transition{i}", *names) for i, names in enumerate(others, start=1)), ("norm",))

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = apply("stem", image)
    if self.stem == "imagenet":
      x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    # All outputs of the current block, its input first; each is [B, h, w, C].
    maps = [x]
    for block, names in enumerate(self._blocks(), start=1):
      if block > 1:
        maps = [nn.avg_pool(apply(f"transition{block - 1}", *maps), (2, 2), strides=(2, 2))]
      for name in names:
        maps.append(apply(name, *maps))
    features = read_out(apply("norm", *maps))
    return apply("classifier", features), features
