"""The depthwise separable network with squeeze and excitation of Li et al. (improved residual network for faces)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.max_pooling import max_pool
from fer_jax.layers.readout import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.layers.squeeze_excite import SqueezeExcite
from fer_jax.models.network import Apply, Extractor, Network
from fer_jax.models.stages import in_turn

# Eq. 2: x above zero, ALPHA (exp(x) - 1) elsewhere; SELU's alpha (arXiv:1706.02515) without its scale.
ALPHA = 1.6732632423543772848170429916717
_ELU = partial(nn.elu, alpha=ALPHA)


@dataclasses.dataclass(frozen=True)
class SeparableSe:
  """The network's hyper-parameters; the defaults are the paper's table 1.

  Two 3x3 convolutions without padding bring a 48x48 face to 44x44. Four stages of two separable convolutions follow,
  each closed by 3x3 maxima at stride 2: 22, 11, 6, 3. A last separable convolution, without padding, leaves 1x1.
  Every convolution is followed by squeeze and excitation. Silent in the paper, and ours: a convolution is normalised
  before its activation; a separable one has neither between its two parts; the gates have biases, and ReLU between
  their matrices; dropout stands before the classifier.

  Table 1 has 5,134,175 parameters so, 5,835,265 are printed. With `residual` there are 5,834,335: printed is, it seems,
  the network "embedded in a residual structure" (section 1.4), whose shortcut branches the table leaves out. The paper
  has too little on biases and normalisation to say where the last 930 are.

  Attributes:
    width: channels of the first convolution; the others have 2, 4, 8, 16 and 32 times as many.
    separable: separable convolutions in each of the four stages.
    residual: add to what a stage makes of its maps a normalised 1x1 convolution of them, at stride 2 as its maxima.
    reduction: of the gates: C / reduction units between the two matrices.
    dropout: before the classifier.
  """

  width: int = 32
  separable: tuple[int, ...] = (2, 2, 2, 2)
  residual: bool = False
  reduction: int = 4
  dropout: float = 0.5

  def __post_init__(self) -> None:
    for key in ("width", "reduction"):
      if getattr(self, key) < 1:
        raise ValueError(f"model.{key}={getattr(self, key)}: expected 1 or more")
    if not self.separable or min(self.separable) < 1:
      raise ValueError(
        f"model.separable={self.separable!r}: expected one stage or more, each with a convolution or more"
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f"model.dropout={self.dropout}: expected a share of the features, from 0 to below 1")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    extractor = self.extractor(dtype, axis_name)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(extractor.walk(apply, image))
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    return Network({**extractor.layers, "classifier": head}, walk, extractor.blocks, "classifier")

  def extractor(self, dtype: jnp.dtype, axis_name: str | None, prefix: str = "") -> Extractor:
    """Returns everything but the classifier, with `prefix` before the name of every layer.

    A layer is a row of table 1: `conv1`, `conv1_gate`, ..., `stage1_0`, `stage1_0_gate`, ..., `last`, `last_gate`;
    `stage1_shortcut` and so on where it is residual.
    """
    common: dict[str, Any] = {"dtype": dtype, "axis_name": axis_name}
    layers: dict[str, nn.Module] = {}

    def gated(name: str, layer: nn.Module, features: int) -> tuple[str, str]:
      """Adds a convolution and its gate; returns their names."""
      names = f"{prefix}{name}", f"{prefix}{name}_gate"
      layers[names[0]] = layer
      layers[names[1]] = SqueezeExcite(max(features // self.reduction, 1), dtype=dtype)
      return names

    stem: tuple[str, ...] = ()
    for i, features in enumerate((self.width, 2 * self.width), start=1):
      stem += gated(f"conv{i}", ConvNormAct(features, padding=0, activation=_ELU, **common), features)
    stages, shortcuts = [], []
    for i, count in enumerate(self.separable, start=1):
      features = 2 ** (i + 1) * self.width
      names: tuple[str, ...] = ()
      for j in range(count):
        names += gated(f"stage{i}_{j}", SeparableConv(features, activation=_ELU, **common), features)
      stages.append(names)
      if self.residual:
        shortcuts.append(f"{prefix}stage{i}_shortcut")
        layers[shortcuts[-1]] = ConvNormAct(features, kernel_size=1, stride=2, activation=None, **common)
    last = gated("last", SeparableConv(features, padding=0, activation=_ELU, **common), features)

    def walk(apply: Apply, image: jax.Array) -> jax.Array:
      x = in_turn(apply, [stem], image)
      for i, names in enumerate(stages):
        y = max_pool(in_turn(apply, [names], x), (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = y + apply(shortcuts[i], x) if shortcuts else y
      return in_turn(apply, [last], x)

    groups = [(*names, *shortcuts[i : i + 1]) for i, names in enumerate(stages)]
    return Extractor(layers, walk, (stem, *groups, last))
