"""Mixes images with one another on the device (mixup, CutMix): pure functions of an image, its partner and a key.

Mixing is applied after standardization, so that the network receives exactly the combination described by the target.
Mixed before standardization, the image with the higher contrast would dominate a blend, and the blend, whose standard
deviation is lower, would be rescaled.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Mixing:
  """Mixing of a training image with another one.

  Attributes:
    mixup: Parameter a of the distribution Beta(a, a) of the share of a blend (Zhang et al. 2018, arXiv:1710.09412); 0
      disables blends.
    cutmix: Parameter a of the distribution Beta(a, a) of the share that remains after a rectangle of the other image is
      pasted in (Yun et al. 2019, arXiv:1905.04899); 0 disables it. If both are above 0, each image is mixed by one of
      the two, with probability 1/2 each.
    probability: Probability of mixing an image.
  """

  mixup: float = 0.0
  cutmix: float = 0.0
  probability: float = 1.0

  def __post_init__(self) -> None:
    for field in ("mixup", "cutmix"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(
          f"mixing.{field}={getattr(self, field)}: expected the parameter of a Beta distribution, or 0 to disable it"
        )
    if not 0 <= self.probability <= 1:
      raise ValueError(f"mixing.probability={self.probability}: expected a probability, 0 to 1")

  @property
  def active(self) -> bool:
    """Whether any image can be mixed."""
    return self.probability > 0 and max(self.mixup, self.cutmix) > 0

  def __call__(
    self, image: jax.Array, target: jax.Array, other_image: jax.Array, other_target: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Mixes one image with another one, and their targets by the same share.

    Args:
      image: Image, float [H, W, C].
      target: Distribution over the classes, float32 [K].
      other_image: Partner image, with the shape and dtype of `image`.
      other_target: Target of the partner, float32 [K].
      key: PRNG key of this image.

    Returns:
      Mixed image and mixed target, with the shapes and dtypes of `image` and `target`.
    """
    if not self.active:
      return image, target
    mixed_key, choice_key, share_key, position_key = jax.random.split(key, 4)
    is_cutmix = jax.random.bernoulli(choice_key, 0.5) if self.mixup and self.cutmix else jnp.asarray(self.cutmix > 0)
    alpha = jnp.where(is_cutmix, self.cutmix, self.mixup)
    # share: scalar weight of `image`; 1 leaves the image unchanged.
    share = jax.random.beta(share_key, alpha, alpha)
    if self.probability < 1:
      share = jnp.where(jax.random.bernoulli(mixed_key, self.probability), share, 1.0)
    # One formula for both, with a share for each pixel, [H, W]: a constant for a blend; 0 inside and 1 outside a pasted
    # rectangle. The share of the target is the mean over the pixels.
    uncovered_mask = uncovered(share, jax.random.uniform(position_key, (2,)), *image.shape[:2])
    shares, share = jnp.where(is_cutmix, uncovered_mask, share), jnp.where(is_cutmix, uncovered_mask.mean(), share)
    return _combined(image, other_image, shares[..., None]), _combined(target, other_target, share)


def uncovered(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
  """Returns a mask of the pixels that a pasted rectangle does not cover (CutMix).

  Args:
    share: Share of the image that remains if the whole rectangle is inside the image, float32 scalar in [0, 1]. The
      rectangle is clipped at the border, so more can remain; the mean of the mask is the actual share.
    center: Centre of the rectangle (down, across) relative to the size of the image, float32 [2] in [0, 1).
    height: Height of the image in pixels.
    width: Width of the image in pixels.

  Returns:
    Mask, float32 [height, width]: 0 inside the rectangle and 1 outside.
  """
  size = jnp.array([height, width], jnp.float32)
  # Both sides are scaled by sqrt(1 - share): the rectangle has the aspect ratio of the image.
  length, middle = jnp.floor(jnp.sqrt(1 - share) * size), jnp.floor(center * size)
  down, across = _inside(length[0], middle[0], height), _inside(length[1], middle[1], width)
  # [height, 1] & [1, width] -> [height, width]
  return 1.0 - (down[:, None] & across[None, :])


def partners(rows: int, key: jax.Array) -> jax.Array:
  """Draws the row that each row of the global batch is mixed with.

  A row can be its own partner, which leaves it unchanged.

  Args:
    rows: Number of rows of the global batch.
    key: PRNG key of the batch.

  Returns:
    Permutation, int32 [rows].
  """
  return jax.random.permutation(key, rows)


def _inside(length: jax.Array, middle: jax.Array, size: int) -> jax.Array:
  """Returns which positions along an axis are inside an interval centred at `middle`, bool [size]."""
  first = middle - length // 2
  positions = jnp.arange(size)
  return (positions >= first) & (positions < first + length)


def _combined(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
  """Returns share * a + (1 - share) * b, in the dtype of `a`."""
  return (share * a + (1 - share) * b).astype(a.dtype)
