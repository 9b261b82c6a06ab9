"""Two separable networks side by side, one for texture and one for the image: Li et al., the network in full."""

import dataclasses

import jax
import jax.numpy as jnp

from fer_jax.layers.lbp import check_pattern, largest_code, local_binary_pattern
from fer_jax.layers.linear import LinearClassifier
from fer_jax.layers.readout import read_out
from fer_jax.models.network import Apply, Network
from fer_jax.models.separable_se import SeparableSe


@dataclasses.dataclass(frozen=True)
class TwoChannel(SeparableSe):
  """The network's hyper-parameters; those of both its separable networks are `SeparableSe`'s.

  Channel one is a map of local binary patterns, channel two the image; each passes a separable network of its own, and
  of their features a f_lbp + (1 - a) f_image is what the classifier reads. The paper has the coefficient chosen by
  cross-validation, and does not say how it improved the patterns, or what a "fusion network" is beside its coefficient.
  Here they are uniform patterns that no rotation changes, unless asked for otherwise, and the coefficient is a setting:
  configs/sweeps/separable_se_fusion.py chooses it. At 0 and at 1 one of the networks is of no effect, and still there.

  Attributes:
    fusion: a, from 0, the image alone, to 1, the patterns alone.
    method: of `local_binary_pattern`, "uniform", "nri_uniform", "ror" or "default".
    neighbours: on the patterns' circle.
    radius: of the circle in pixels.
  """

  fusion: float = 0.5
  method: str = "uniform"
  neighbours: int = 8
  radius: float = 1.0

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 <= self.fusion <= 1:
      raise ValueError(f"model.fusion={self.fusion}: expected a share, from 0 to 1")
    try:
      check_pattern(self.neighbours, self.radius, self.method)
    except ValueError as error:
      raise ValueError(f"model.{error}") from None

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network for K classes, computing in `dtype`, normalising over `axis_name`."""
    prefixes = ("lbp_", "image_")
    one, two = (self.extractor(dtype, axis_name, prefix) for prefix in prefixes)

    def walk(apply: Apply, image: jax.Array) -> tuple[jax.Array, jax.Array]:
      of_patterns = read_out(one.walk(apply, self.patterns(image)))
      of_image = read_out(two.walk(apply, image))
      features = self.fusion * of_patterns + (1 - self.fusion) * of_image
      return apply("classifier", features), features

    head = LinearClassifier(num_classes, dropout=self.dropout, dtype=dtype)
    layers = {**one.layers, **two.layers, "classifier": head}
    return Network(layers, walk, (*one.blocks, *two.blocks), "classifier", prefixes)

  def patterns(self, image: jax.Array) -> jax.Array:
    """Returns the codes of the patterns, float32 [B, H, W, C] from -1 to 1; exposure and contrast change nothing."""
    codes = local_binary_pattern(image, self.neighbours, self.radius, self.method, outside=None)
    return 2 * codes.astype(jnp.float32) / largest_code(self.neighbours, self.method) - 1
