"""AlexNet in its single-GPU form: Krizhevsky 2014 (arXiv:1404.5997), after Krizhevsky et al. 2012."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier, LinearUnit
from fer_jax.layers.pooling import read_out
from fer_jax.models.choices import STEMS, check_choice
from fer_jax.models.network import Apply, Network

# Convolutions followed by 3x3 max pooling at stride 2.
POOLED = frozenset({"conv1", "conv2", "conv5"})


@dataclasses.dataclass(frozen=True)
class AlexNet:
  """Hyper-parameters of the network; with the stem "imagenet" it is torchvision's, 61.1 M parameters at 224x224.

  Torchvision and this network differ from the papers in two ways: they have no local response normalisation, and they
  average the last feature map over a grid, so that images need not be 224x224. This network differs from torchvision if
  the last feature map is smaller than the grid: it is used unchanged, and the first fully connected layer has fewer
  inputs, whereas torchvision repeats pixels.

  Attributes:
    stem: Stride of the 11x11 convolution: "small" (1) gives a last feature map of 4x4 for a 48x48 face; "imagenet" (4)
      gives 6x6 for 224x224 and requires images of at least 63x63.
    grid: Number of cells along each axis of the last feature map that the fully connected layers read.
    hidden: Number of units of each of the two fully connected layers.
    dropout: Dropout rate before each of the two.
  """

  stem: str = "small"
  grid: int = 6
  hidden: int = 4096
  dropout: float = 0.5

  def __post_init__(self) -> None:
    check_choice("model.stem", self.stem, STEMS)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build`. It has no batch statistics, so `axis_name` has no effect."""
    conv = partial(ConvNormAct, normalize=False, dtype=dtype)
    linear = partial(LinearUnit, self.hidden, dropout=self.dropout, dtype=dtype)
    layers: dict[str, nn.Module] = {
      "conv1": conv(64, kernel_size=11, stride=4 if self.stem == "imagenet" else 1, padding=2),
      "conv2": conv(192, kernel_size=5),
      "conv3": conv(384),
      "conv4": conv(256),
      "conv5": conv(256),
      "fc6": linear(),
      "fc7": linear(),
      "classifier": LinearClassifier(num_classes, dtype=dtype),
    }
    blocks = (("conv1",), ("conv2",), ("conv3", "conv4", "conv5"), ("fc6", "fc7"))
    return Network(layers, self._walk, blocks, "classifier")

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = image
    for i in range(1, 6):
      x = apply(f"conv{i}", x)
      if f"conv{i}" in POOLED:
        x = max_pool(x, (3, 3), (2, 2))
    # [B, h, w, 256] -> [B, min(h, grid) min(w, grid) 256] -> [B, hidden]
    features = apply("fc7", apply("fc6", read_out(x, self.grid)))
    return apply("classifier", features), features
