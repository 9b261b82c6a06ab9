"""Images mixed with one another, on the device: pure functions of one image, its partner and a key.

They belong after the standardisation. An image then reaches the network as the very combination that its target
speaks of: before it, the image of the higher contrast would fill more of a blend than its share, and a blend's own
standard deviation, which is lower, would be scaled away again.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Mixing:
  """How a training image is mixed with another one.

  Attributes:
    mixup: parameter of the Beta(a, a) that the share of a blend is drawn from (Zhang et al. 2018, arXiv:1710.09412);
      0 for no blends.
    cutmix: likewise of the share that is left when a rectangle of the other image is pasted in (Yun et al. 2019,
      arXiv:1905.04899); 0 for none. Where both are above 0 an image has the one or the other, half and half.
    probability: of mixing an image at all.
  """

  mixup: float = 0.0
  cutmix: float = 0.0
  probability: float = 1.0

  def __post_init__(self) -> None:
    for field in ("mixup", "cutmix"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(f"mixing.{field}={getattr(self, field)}: expected the parameter of a Beta, 0 for none")
    if not 0 <= self.probability <= 1:
      raise ValueError(f"mixing.probability={self.probability}: expected a probability, 0 to 1")

  @property
  def active(self) -> bool:
    """Whether any image is ever mixed."""
    return self.probability > 0 and max(self.mixup, self.cutmix) > 0

  def __call__(
    self, image: jax.Array, target: jax.Array, other_image: jax.Array, other_target: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Mixes one image with another, and their targets by the same shares.

    Args:
      image: float [H, W, C].
      target: float32 [K], a distribution over the classes.
      other_image: of the shape and dtype of `image`.
      other_target: float32 [K].
      key: of this image.

    Returns:
      the image and the target, in the shapes and dtypes they had.
    """
    if not self.active:
      return image, target
    mixed_key, choice_key, share_key, place_key = jax.random.split(key, 4)
    does_cut = jax.random.bernoulli(choice_key, 0.5) if self.mixup and self.cutmix else jnp.asarray(self.cutmix > 0)
    alpha = jnp.where(does_cut, self.cutmix, self.mixup)
    share = jax.random.beta(share_key, alpha, alpha)
    if self.probability < 1:
      share = jnp.where(jax.random.bernoulli(mixed_key, self.probability), share, 1.0)
    # A blend is the same share of every pixel; a pasted rectangle a share of 0 inside it and of 1 around it.
    left = uncovered(share, jax.random.uniform(place_key, (2,)), *image.shape[:2])
    shares, share = jnp.where(does_cut, left, share), jnp.where(does_cut, left.mean(), share)
    return _combined(image, other_image, shares[..., None]), _combined(target, other_target, share)


def uncovered(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
  """Marks what a rectangle leaves of an image.

  Args:
    share: float32 scalar in [0, 1]: the rectangle is large enough to leave so much. What juts out of the image is cut
      off, so that more may be left: the mean of what is returned is the real share.
    center: float32 [2] in [0, 1), of the rectangle, down and across.
    height: of the image.
    width: of the image.

  Returns:
    float32 [height, width], 0 inside the rectangle and 1 around it.
  """
  size = jnp.array([height, width], jnp.float32)
  length, middle = jnp.floor(jnp.sqrt(1 - share) * size), jnp.floor(center * size)
  down, across = _inside(length[0], middle[0], height), _inside(length[1], middle[1], width)
  return 1.0 - (down[:, None] & across[None, :])


def partners(rows: int, key: jax.Array) -> jax.Array:
  """Draws the row that each row of the global batch is mixed with: a permutation, int32 [rows].

  A row may be its own partner: that one is not changed.
  """
  return jax.random.permutation(key, rows)


def _inside(length: jax.Array, middle: jax.Array, size: int) -> jax.Array:
  first = middle - length // 2
  places = jnp.arange(size)
  return (places >= first) & (places < first + length)


def _combined(one: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
  return (share * one + (1 - share) * other).astype(one.dtype)
