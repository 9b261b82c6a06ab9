"""The full network of Li et al.: two parallel separable networks, one for texture and one for the image."""

import dataclasses

import jax
import jax.numpy as jnp

from fer_jax.layers.lbp import check_pattern, largest_code, local_binary_pattern
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.pooling import read_out
from fer_jax.models.network import Apply, Network
from fer_jax.models.separable_se import SeparableSe


@dataclasses.dataclass(frozen=True)
class TwoChannel(SeparableSe):
  """Hyper-parameters of the network; the inherited ones apply to both separable networks.

  The first channel is an image of local binary patterns (LBP), the second the image itself. Each has its own separable
  network, and the classifier reads a f_lbp + (1 - a) f_image. The paper chooses the coefficient a by cross-validation.
  It does not specify how it improved the patterns, or what its "fusion network" contains in addition to the
  coefficient. Here the default patterns are uniform and rotation-invariant, and the coefficient is a setting, which
  configs/sweeps/separable_se_fusion.py selects. At a = 0 and a = 1 one of the networks has no effect but is still
  computed.

  Attributes:
    fusion: Coefficient a, from 0 (image only) to 1 (patterns only).
    method: Method of `local_binary_pattern`: "uniform", "nri_uniform", "ror" or "default".
    neighbours: Number of sampling points on the circle of a pattern.
    radius: Radius of the circle in pixels.
  """

  fusion: float = 0.5
  method: str = "uniform"
  neighbours: int = 8
  radius: float = 1.0

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 <= self.fusion <= 1:
      raise ValueError(f"model.fusion={self.fusion}: expected a coefficient, 0 <= fusion <= 1")
    try:
      check_pattern(self.neighbours, self.radius, self.method)
    except ValueError as error:
      raise ValueError(f"model.{error}") from None

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network; see `ModelSettings.build` for the arguments."""
    prefixes = ("lbp_", "image_")
    pattern_extractor, image_extractor = (self.extractor(dtype, axis_name, prefix) for prefix in prefixes)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      # [B, H, W, C] -> [B, D], for the patterns and for the image
      pattern_features = read_out(pattern_extractor.walk(apply, self.patterns(image)))
      image_features = read_out(image_extractor.walk(apply, image))
      features = self.fusion * pattern_features + (1 - self.fusion) * image_features
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    layers = {**pattern_extractor.layers, **image_extractor.layers, "classifier": head}
    return Network(layers, walk, (*pattern_extractor.blocks, *image_extractor.blocks), "classifier", prefixes)

  def patterns(self, image: jax.Array) -> jax.Array:
    """Returns the LBP codes scaled to [-1, 1], float32 [B, H, W, C]; they are invariant to exposure and contrast."""
    codes = local_binary_pattern(image, self.neighbours, self.radius, self.method, outside=None)
    return 2 * codes.astype(jnp.float32) / largest_code(self.neighbours, self.method) - 1
