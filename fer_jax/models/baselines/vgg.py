"""VGG: many small convolutions in a row. Simonyan & Zisserman 2015 (arXiv:1409.1556)."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier, LinearUnit
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.models.choices import check_choice
from fer_jax.models.network import Apply, Network

# Convolutions of each stage, by the number of layers that have weights: the paper's columns B, D and E.
STAGES = {13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MOST_CHANNELS = 8  # times those of the first stage


@dataclasses.dataclass(frozen=True)
class Vgg:
  """The network's hyper-parameters; at 224x224 the default is the paper's and torchvision's VGG-19, 143.7 M parameters.

  The five maxima bring a 48x48 face to a single cell, which the fully connected layers then read (39 M parameters).
  What differs: a map no larger than the grid is left as it is, where torchvision repeats its pixels.

  Attributes:
    depth: 13, 16 or 19 layers with weights.
    batch_norm: normalise every convolution, in the place of its bias; the paper, older than batch normalisation, had
      to start deep networks from shallow ones.
    width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
    grid: cells along each axis of the last map that the fully connected layers read.
    hidden: units of both fully connected layers.
    dropout: after each of them.
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
    """Returns the network for K classes, computing in `dtype`, normalising (if at all) over `axis_name`."""
    conv = partial(ConvNormAct, normalize=self.batch_norm, dtype=dtype, axis_name=axis_name)
    layers: dict[str, nn.Module] = {}
    for stage, names in enumerate(self._stages()):
      layers |= {name: conv(self.width * min(2**stage, MOST_CHANNELS)) for name in names}
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
    features = apply("fc7", apply("fc6", read_out(x, self.grid)))
    return apply("classifier", features), features
