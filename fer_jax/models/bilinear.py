"""The bilinear network of Lyu et al. 2024 (OBSR-Net): two ResNets, pooled as in Lin et al. 2015 (arXiv:1504.07889)."""

import dataclasses

import jax
import jax.numpy as jnp

from fer_jax.layers.bilinear_pooling import bilinear_pool, l2_normalize, signed_sqrt
from fer_jax.layers.linear import LinearClassifier
from fer_jax.models.network import Apply, Network
from fer_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Bilinear:
  """Hyper-parameters of the network; the defaults are the paper's.

  Both extractors read the image. The outer products of their features are summed over the positions of the last
  feature map (eq. 1-2). The classifier reads the signed square roots of the sums, scaled to length 1 (eq. 5-6; the
  paper prints "sin" for "sign"): 262,144 features from two ResNet-34.

  Attributes:
    depth: Depth of both ResNets: 18, 34 or 50.
    stem: Stem of both ResNets; see `ResNet`.
    width: Number of channels of the first stage.
    shared: Whether one extractor computes both feature maps, which halves the parameters and makes the outer product
      symmetric.
  """

  depth: int = 34
  stem: str = "imagenet"
  width: int = 64
  shared: bool = False

  def __post_init__(self) -> None:
    self._extractor()  # raises ValueError for an invalid depth or stem

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    prefixes = ("",) if self.shared else ("a_", "b_")
    extractors = [self._extractor().extractor(dtype, axis_name, prefix) for prefix in prefixes]

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      # One or two feature maps [B, h, w, D]; a shared extractor is pooled with itself.
      maps = [extractor.walk(apply, image) for extractor in extractors]
      # [B, h, w, D] x [B, h, w, D] -> [B, D * D]
      features = l2_normalize(signed_sqrt(bilinear_pool(maps[0], maps[-1])))
      return apply("classifier", features), features

    return Network(
      layers={
        **{name: layer for extractor in extractors for name, layer in extractor.layers.items()},
        "classifier": LinearClassifier(num_classes, dtype=dtype),
      },
      walk=walk,
      blocks=tuple(block for extractor in extractors for block in extractor.blocks),
      classifier="classifier",
      extractors=prefixes,
    )

  def _extractor(self) -> ResNet:
    return ResNet(self.depth, self.stem, width=self.width)
