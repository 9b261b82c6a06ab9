"""VGG: deep stacks of 3x3 convolutions. Simonyan & Zisserman 2015 (arXiv:1409.1556)."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier, LinearUnit
from fer_jax.layers.pooling import read_out
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Apply, Network

# Number of convolutions in each stage, by number of weight layers: columns B, D and E of the paper's table.
STAGES = {13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MAX_WIDTH_FACTOR = 8  # maximum number of channels, in multiples of the first stage's


@dataclasses.dataclass(frozen=True)
class Vgg:
  """Hyper-parameters of the network; the defaults are VGG-19 as in the paper and torchvision.

  It has 143.7 M parameters at 224x224. The five max pooling layers reduce a 48x48 face to a single position, which the
  fully connected layers read (39 M parameters). One thing differs from torchvision: a last feature map that is not
  larger than the grid is used unchanged, whereas torchvision repeats its pixels.

  Attributes:
    depth: Number of weight layers: 13, 16 or 19.
    batch_norm: Whether batch normalisation replaces the bias of every convolution. The paper predates it and had to
      initialise deep networks from shallow ones.
    width: Number of channels of the first stage; the others have 2, 4, 8 and 8 times as many.
    grid: Number of cells along each axis of the last feature map that the fully connected layers read.
    hidden: Number of units of each of the two fully connected layers.
    dropout: Dropout rate after each of the two.
  """

  depth: int = 19
  batch_norm: bool = False
  width: int = 64
  grid: int = 7
  hidden: int = 4096
  dropout: float = 0.5

  def __post_init__(self) -> None:
    check_choice("model.depth", self.depth, STAGES)

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    conv = partial(ConvNormAct, normalize=self.batch_norm, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {}
    for stage, names in enumerate(self._stages()):
      layers |= {name: conv(self.width * min(2**stage, MAX_WIDTH_FACTOR)) for name in names}
    # Dropout is applied to the inputs of a layer, so fc7 and the classifier drop the outputs of fc6 and fc7.
    layers["fc6"] = LinearUnit(self.hidden, dtype=dtype)
    layers["fc7"] = LinearUnit(self.hidden, dropout=self.dropout, dtype=dtype)
    layers["classifier"] = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    return Network(layers, self._walk, (*self._stages(), ("fc6", "fc7")), "classifier")

  def _stages(self) -> tuple[tuple[str, ...], ...]:
    return tuple(
      tuple(f"conv{stage}_{i}" for i in range(1, convs + 1)) for stage, convs in enumerate(STAGES[self.depth], start=1)
    )

  def _walk(self, apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = image
    for names in self._stages():
      for name in names:
        x = apply(name, x)
      x = max_pool(x, (2, 2), (2, 2))
    # [B, h, w, C] -> [B, min(h, grid) min(w, grid) C] -> [B, hidden]
    features = apply("fc7", apply("fc6", read_out(x, self.grid)))
    return apply("classifier", features), features
