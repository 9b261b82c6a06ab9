"""Mini-Xception: separable convolutions in residual modules, for faces. Arriaga et al. 2017 (arXiv:1710.07557)."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.convolution import Conv
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.models.network import Apply, Network

EPSILON = 1e-3  # Keras's, for the variance
MODULES = 4


class XceptionModule(nn.Module):
  """Adds two separable convolutions with 3x3 maxima to a 1x1 convolution, both at stride 2."""

  features: int
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), features]."""
    separable = partial(SeparableConv, self.features, epsilon=EPSILON, dtype=self.dtype, axis_name=self.axis_name)
    downsample = ConvNormAct(
      self.features,
      kernel_size=1,
      stride=2,
      activation=None,
      epsilon=EPSILON,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name="downsample",
    )
    y = separable(name="conv1")(x, train=train)
    y = separable(activation=None, name="conv2")(y, train=train)
    return max_pool(y, (3, 3), (2, 2), "SAME") + downsample(x, train=train)


class ConvClassifier(nn.Module):
  """Scores every place of a map by a 3x3 convolution, then averages the scores.

  Attributes:
    num_classes: K.
    dtype: of the computation; the logits are float32.
  """

  num_classes: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to logits, float32 [B, K]; the same in training."""
    return Conv(self.num_classes, 3, padding=1, dtype=self.dtype, name="conv")(x).mean((1, 2), jnp.float32)


@dataclasses.dataclass(frozen=True)
class MiniXception:
  """The network's hyper-parameters; the default is the authors' `mini_XCEPTION`: 58,423 numbers for 7 classes.

  Of these 56,951 are parameters and 1,472 statistics; Keras counts both. A 48x48 face (theirs were 64x64) ends as a
  map of 3x3. The classifier reads that map, not the features, which are its average.
  What differs: the statistics' running average has the momentum 0.9, not Keras's 0.99, and the penalty of 0.01 on the
  kernels' squares is the optimiser's to apply.

  Attributes:
    width: channels of the first convolutions; the modules have 2, 4, 8 and 16 times as many.
  """

  width: int = 8

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    conv = partial(ConvNormAct, self.width, padding=0, epsilon=EPSILON, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {"conv1": conv(), "conv2": conv()}
    modules = [f"module{i}" for i in range(1, MODULES + 1)]
    for i, name in enumerate(modules, start=1):
      layers[name] = XceptionModule(self.width * 2**i, dtype=dtype, axis_name=axis_name)
    layers["classifier"] = ConvClassifier(num_classes, dtype=dtype)
    return Network(layers, self._walk, (("conv1", "conv2"), *((name,) for name in modules)), "classifier")

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = apply("conv2", apply("conv1", image))
    for i in range(1, MODULES + 1):
      x = apply(f"module{i}", x)
    return apply("classifier", x), read_out(x)
