"""Augments images on the device: pure functions of one image and a key, mapped over the batch inside the step."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fer_jax.data.tone import brightened, contrasted, erased, gamma_corrected, noised
from fer_jax.data.warp import shifted, warped

ERASE_FILLS = ("random", "mean")

# Each random draw folds its index in this list, plus 2, into the image's key. Append new draws at the end: the existing
# ones then keep their values. 0 and 1 would give the halves of split(key), which are used for the flip and the shift.
_CHANCES = (
  *("rotation", "scale", "crop", "crop place", "gamma", "contrast", "brightness", "noise", "noise pixels"),
  *("erase", "erase area", "erase aspect", "erase place", "erase pixels"),
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Augmentation of one training image; the default is a horizontal flip only.

  The operations are applied in the order of the attributes. Rotation, scale and crop are a single interpolation. A
  range is (smallest, largest) and is sampled uniformly; `scale`, `gamma` and `erase_aspect` are sampled uniformly in
  their logarithm. `standardize` cancels changes of brightness and contrast, except for values clipped at 0 and 255, and
  for noise and erasing, which are applied afterwards.

  Attributes:
    flip: Probability of a horizontal flip.
    shift: Maximum displacement along each axis, in pixels. For this and all following operations, pixels from outside
      the image repeat the border.
    rotation: Range of the rotation angle in degrees; both directions are equally likely.
    scale: Range of the magnification about the centre; values below 1 shrink the image.
    crop: Range of the share of the area that is kept by a window. The window has the aspect ratio of the image, is
      positioned uniformly within it, and is resized to its size.
    gamma: Range of the exponent applied to intensities scaled to 0..1; values above 1 darken the image.
    contrast: Maximum relative change, in both directions, of the distance from the mean intensity.
    brightness: Maximum relative change, in both directions, of all intensities.
    noise: Variance of the Gaussian noise for intensities scaled to 0..1.
    erase: Probability of erasing one rectangle (Random Erasing, arXiv:1708.04896).
    erase_area: Range of the rectangle's share of the area.
    erase_aspect: Range of the rectangle's height divided by its width; a rectangle that does not fit into the image
      gets the nearest aspect ratio that fits.
    erase_fill: Content of the rectangle: "random" values for each pixel, or the "mean" of each channel of the image.
    probability: Probability of each of rotation, scale, crop, gamma, contrast, brightness and noise, sampled
      independently.
  """

  flip: float = 0.5
  shift: int = 0
  rotation: tuple[float, ...] = (0.0, 0.0)
  scale: tuple[float, ...] = (1.0, 1.0)
  crop: tuple[float, ...] = (1.0, 1.0)
  gamma: tuple[float, ...] = (1.0, 1.0)
  contrast: float = 0.0
  brightness: float = 0.0
  noise: float = 0.0
  erase: float = 0.0
  erase_area: tuple[float, ...] = (0.02, 0.4)
  erase_aspect: tuple[float, ...] = (0.3, 3.3)
  erase_fill: str = "random"
  probability: float = 1.0

  def __post_init__(self) -> None:
    for name in ("flip", "erase", "probability"):
      _check(name, getattr(self, name), 0, 1, "a probability, 0 to 1")
    _check("shift", self.shift, 0, math.inf, "pixels, 0 or more")
    _check_range("rotation", self.rotation, 0, 180, "two angles of 0 to 180 degrees")
    _check_range("scale", self.scale, 0.1, 10, "two magnifications of 0.1 to 10")
    _check_range("crop", self.crop, 0.01, 1, "two shares of the area, 0.01 to 1")
    _check_range("gamma", self.gamma, 0.1, 10, "two exponents of 0.1 to 10")
    for name in ("contrast", "brightness"):
      _check(name, getattr(self, name), 0, 1, "a relative change, 0 to 1")
    _check("noise", self.noise, 0, 1, "a variance of 0 to 1, for intensities scaled to 0 to 1")
    _check_range("erase_area", self.erase_area, 0, 1, "two shares of the area, 0 to 1")
    _check_range("erase_aspect", self.erase_aspect, 0.01, 100, "two ratios of height to width, 0.01 to 100")
    if self.erase_fill not in ERASE_FILLS:
      raise ValueError(f"augmentation.erase_fill={self.erase_fill!r}: expected one of {', '.join(ERASE_FILLS)}")

  @property
  def _warps(self) -> bool:
    """Whether any operation interpolates the image."""
    return (self.rotation, self.scale, self.crop) != ((0, 0), (1, 1), (1, 1))

  @property
  def _tones(self) -> bool:
    """Whether any operation changes intensities."""
    return self.gamma != (1, 1) or max(self.contrast, self.brightness, self.noise) > 0

  def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Returns an augmented image.

    Args:
      image: Image with values of 0 to 255, any dtype, shape [H, W, C].
      key: PRNG key of this image.

    Returns:
      Image of shape [H, W, C]. Flip and shift only move pixels and keep the dtype; with any other operation, the result
      is float32 with values of 0 to 255.
    """
    flip_key, shift_key = jax.random.split(key)
    if self.flip:
      image = jnp.where(jax.random.bernoulli(flip_key, self.flip), image[:, ::-1], image)
    if self.shift:
      image = shifted(image, jax.random.randint(shift_key, (2,), -self.shift, self.shift + 1), self.shift)
    if not (self._warps or self._tones or self.erase):
      return image
    # The order is fixed: geometry, then intensities, then erasing.
    if self._warps:
      image = self._warp(image, key)
    if self._tones:
      image = self._tone(image, key)
    image = jnp.clip(image.astype(jnp.float32), 0, 255)
    return self._erase(image, key) if self.erase else image

  def _sometimes(self, key: jax.Array, chance: str, bounds: tuple[float, ...], neutral: float) -> jax.Array:
    """Returns a uniform sample from `bounds` with probability `self.probability`, and `neutral` otherwise.

    Args:
      key: PRNG key of the image.
      chance: Name of the draw in _CHANCES.
      bounds: Smallest and largest value.
      neutral: Value that leaves the image unchanged.

    Returns:
      float32 scalar.
    """
    low, high = bounds
    if low == high == neutral:
      return jnp.float32(neutral)
    done_key, value_key = jax.random.split(_chance(key, chance))
    value = jax.random.uniform(value_key, minval=low, maxval=high)
    return jnp.where(jax.random.bernoulli(done_key, self.probability), value, neutral)

  def _warp(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Rotates, scales and crops an image, [H, W, C], in one interpolation."""
    # One draw in [-1, 1] gives both the direction and the size of the angle; 0 means no rotation.
    low, high = self.rotation
    sign_and_size = self._sometimes(key, "rotation", (-1.0, 1.0), 0.0) if high else jnp.float32(0)
    degrees = jnp.sign(sign_and_size) * (low + jnp.abs(sign_and_size) * (high - low))
    # Uniform in the logarithm: a factor and its inverse are equally likely.
    zoom = jnp.exp(self._sometimes(key, "scale", _logarithm(self.scale), 0.0))
    share = self._sometimes(key, "crop", self.crop, 1.0)
    place = jax.random.uniform(_chance(key, "crop place"), (2,), minval=-1.0, maxval=1.0)
    return warped(image, degrees, zoom, share, place)

  def _tone(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Applies gamma, contrast, brightness and noise to an image, [H, W, C]."""
    if self.gamma != (1, 1):
      image = gamma_corrected(image, jnp.exp(self._sometimes(key, "gamma", _logarithm(self.gamma), 0.0)))
    if self.contrast:
      image = contrasted(image, self._sometimes(key, "contrast", (-self.contrast, self.contrast), 0.0))
    if self.brightness:
      image = brightened(image, self._sometimes(key, "brightness", (-self.brightness, self.brightness), 0.0))
    if self.noise:
      variance = self._sometimes(key, "noise", (self.noise, self.noise), 0.0)
      image = noised(image, variance, _chance(key, "noise pixels"))
    return image

  def _erase(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Replaces a random rectangle of an image, float32 [H, W, C], with probability `self.erase`."""
    done = jax.random.bernoulli(_chance(key, "erase"), self.erase)
    area = jax.random.uniform(_chance(key, "erase area"), minval=self.erase_area[0], maxval=self.erase_area[1])
    low, high = _logarithm(self.erase_aspect)
    aspect = jnp.exp(jax.random.uniform(_chance(key, "erase aspect"), minval=low, maxval=high))
    place = jax.random.uniform(_chance(key, "erase place"), (2,))
    # fill: [H, W, C]
    if self.erase_fill == "mean":
      fill = jnp.broadcast_to(image.mean(axis=(0, 1), keepdims=True), image.shape)
    else:
      fill = jax.random.uniform(_chance(key, "erase pixels"), image.shape, maxval=255.0)
    return jnp.where(done, erased(image, area, aspect, place, fill), image)


def standardize(image: jax.Array) -> jax.Array:
  """Scales each image to mean 0 and standard deviation 1.

  Exposure and contrast carry no information about the expression.

  Args:
    image: Images, uint8 or float [B, H, W, C], values of 0 to 255.

  Returns:
    Standardized images, float32 [B, H, W, C]; a constant image becomes zeros.
  """
  image = image.astype(jnp.float32)
  mean = image.mean(axis=(1, 2, 3), keepdims=True)
  deviation = image.std(axis=(1, 2, 3), keepdims=True)
  # At least one grey level: an image with less contrast is noise, which must not be amplified.
  return (image - mean) / jnp.maximum(deviation, 1.0)


def _chance(key: jax.Array, name: str) -> jax.Array:
  """Returns the key of a draw in _CHANCES for the image with key `key`."""
  return jax.random.fold_in(key, 2 + _CHANCES.index(name))


def _logarithm(bounds: tuple[float, ...]) -> tuple[float, ...]:
  """Returns the natural logarithms of a range."""
  return tuple(math.log(bound) for bound in bounds)


def _check(name: str, value: float, smallest: float, largest: float, expected: str) -> None:
  if not smallest <= value <= largest:
    raise ValueError(f"augmentation.{name}={value}: expected {expected}")


def _check_range(name: str, bounds: tuple[float, ...], smallest: float, largest: float, expected: str) -> None:
  if len(bounds) != 2 or not smallest <= bounds[0] <= bounds[1] <= largest:
    raise ValueError(f"augmentation.{name}={bounds}: expected {expected}, the smaller first")
