"""The depthwise separable network with squeeze and excitation of Li et al. (an improved residual network for faces)."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.kernels.max_pooling import max_pool
from fer_jax.layers.attention import SqueezeExcite
from fer_jax.layers.conv_norm_act import ConvNormAct
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.layers.separable_conv import SeparableConv
from fer_jax.models.network import Apply, Extractor, Network
from fer_jax.models.stages import apply_stages

# Eq. 2: x for x > 0, ALPHA (exp(x) - 1) otherwise. The alpha of SELU (arXiv:1706.02515) without its scale.
ALPHA = 1.6732632423543772848170429916717
_ELU = partial(nn.elu, alpha=ALPHA)


@dataclasses.dataclass(frozen=True)
class SeparableSe:
  """Hyper-parameters of the network; the defaults are the paper's table 1.

  Two unpadded 3x3 convolutions reduce a 48x48 face to 44x44. Four stages follow, each of two separable convolutions
  and 3x3 max pooling at stride 2: 22, 11, 6 and 3 pixels. A last separable convolution, unpadded, leaves 1x1. Squeeze
  and excitation follows every convolution.

  The paper does not specify the following, and the choices are ours: a convolution is normalised before its
  activation; a separable convolution has neither between its depthwise and its pointwise part; the gates have biases,
  and a ReLU between their two matrices; dropout precedes the classifier.

  Table 1 then has 5,134,175 parameters, but the paper prints 5,835,265. With `residual` there are 5,834,335. The
  printed number therefore seems to include the shortcut branches of the network "embedded in a residual structure"
  (section 1.4), which the table omits. The paper has too little detail on biases and normalisation to locate the
  remaining 930.

  Attributes:
    width: Number of channels of the first convolution; the others have 2, 4, 8, 16 and 32 times as many.
    separable: Number of separable convolutions in each stage; the paper has four stages.
    residual: Whether each stage has a shortcut branch, a normalised 1x1 convolution at stride 2.
    reduction: Reduction ratio of the gates: C / reduction units between the two matrices.
    dropout: Dropout rate before the classifier.
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
        f"model.separable={self.separable!r}: expected at least one stage, each with at least one convolution"
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f"model.dropout={self.dropout}: expected a rate, 0 <= dropout < 1")

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    extractor = self.extractor(dtype, axis_name)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      features = read_out(extractor.walk(apply, image))
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    return Network({**extractor.layers, "classifier": head}, walk, extractor.blocks, "classifier")

  def extractor(self, dtype: jnp.dtype, axis_name: str | None, prefix: str = "") -> Extractor:
    """Returns the network without its classifier.

    Each layer is a row of table 1: `conv1`, `conv1_gate`, ..., `stage1_0`, `stage1_0_gate`, ..., `last`, `last_gate`.
    A residual network also has `stage1_shortcut` and so on.

    Args:
      dtype: Dtype of the computation.
      axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
      prefix: Start of the name of every layer.
    """
    common: dict[str, Any] = {"dtype": dtype, "axis_name": axis_name}
    layers: dict[str, nn.Module] = {}

    def gated(name: str, layer: nn.Module, features: int) -> tuple[str, str]:
      """Adds a convolution and its gate to `layers`; returns their names."""
      names = f"{prefix}{name}", f"{prefix}{name}_gate"
      layers[names[0]] = layer
      layers[names[1]] = SqueezeExcite(max(features // self.reduction, 1), dtype=dtype)
      return names

    stem: tuple[str, ...] = ()
    for i, features in enumerate((self.width, 2 * self.width), start=1):
      stem += gated(f"conv{i}", ConvNormAct(features, padding=0, activation=_ELU, **common), features)
    stages, shortcuts = [], []
    for i, count in enumerate(self.separable, start=1):
      # The stem has width and 2 width channels, so stage 1 has 4 width.
      features = 2 ** (i + 1) * self.width
      names: tuple[str, ...] = ()
      for j in range(count):
        names += gated(f"stage{i}_{j}", SeparableConv(features, activation=_ELU, **common), features)
      stages.append(names)
      if self.residual:
        shortcuts.append(f"{prefix}stage{i}_shortcut")
        layers[shortcuts[-1]] = ConvNormAct(features, kernel_size=1, stride=2, activation=None, **common)
    # As many channels as the last stage.
    last = gated("last", SeparableConv(features, padding=0, activation=_ELU, **common), features)

    def walk(apply: Apply, image: jax.Array) -> jax.Array:
      x = apply_stages(apply, [stem], image)
      for i, names in enumerate(stages):
        # [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C']; a shortcut has the same shape.
        y = max_pool(apply_stages(apply, [names], x), (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = y + apply(shortcuts[i], x) if shortcuts else y
      return apply_stages(apply, [last], x)

    # A shortcut belongs to the block of its stage; without shortcuts the slice is empty.
    groups = [(*names, *shortcuts[i : i + 1]) for i, names in enumerate(stages)]
    return Extractor(layers, walk, (stem, *groups, last))
