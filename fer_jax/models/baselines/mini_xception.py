"""Mini-Xception, a small network of residual separable convolutions: Arriaga et al. 2017 (arXiv:1710.07557)."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.pooling import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.models.network import Apply, Network

EPSILON = 1e-3  # added to the variance, as in the Keras original
MODULES = 4


class XceptionModule(nn.Module):
  """Sums two branches at stride 2: two separable convolutions with 3x3 max pooling, and a 1x1 convolution.

  Attributes:
    features: Number of output channels.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
  """

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
  """Computes class scores at every position of a feature map by a 3x3 convolution, then averages them.

  Attributes:
    num_classes: Number of classes K.
    dtype: Dtype of the computation; the logits are float32.
  """

  num_classes: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to logits, float32 [B, K]; `train` has no effect."""
    return Conv(self.num_classes, 3, padding=1, dtype=self.dtype, name="conv")(x).mean((1, 2), jnp.float32)


@dataclasses.dataclass(frozen=True)
class MiniXception:
  """Hyper-parameters of the network; the default is the authors' `mini_XCEPTION`, 58,423 parameters for 7 classes.

  This number, as counted by Keras, is the sum of 56,951 trainable parameters and 1,472 batch statistics. A 48x48 face
  gives a last feature map of 3x3 (the authors' faces were 64x64). The classifier reads that feature map; the returned
  features are its average and are not an input of the classifier. Two things differ from the original: the running
  averages of the batch statistics have momentum 0.9, not Keras's 0.99, and the L2 penalty of 0.01 on the kernels is
  left to the optimiser.

  Attributes:
    width: Number of channels of the first two convolutions; the modules have 2, 4, 8 and 16 times as many.
  """

  width: int = 8

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
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
    # x: [B, h, w, 16 width]; the classifier averages after its convolution, the features are averaged without it.
    return apply("classifier", x), read_out(x)
