"""Augments images on the device: pure functions of one image and a key, mapped over the batch inside the step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

ERASE_FILLS = ("random", "mean")

# Each random draw folds its index in this list, plus 2, into the image's key. Append new draws at the end: the existing
# ones then keep their values. 0 and 1 would give the halves of split(key), which are used for the flip and the shift.
_DRAWS = (
  "rotation",
  "scale",
  "crop",
  "crop position",
  "gamma",
  "contrast",
  "brightness",
  "noise",
  "noise pixels",
  "erase",
  "erase area",
  "erase aspect",
  "erase position",
  "erase pixels",
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

  def _sample(self, key: jax.Array, draw: str, bounds: tuple[float, ...], neutral: float) -> jax.Array:
    """Returns a uniform sample from `bounds` with probability `self.probability`, and `neutral` otherwise.

    Args:
      key: PRNG key of the image.
      draw: Name of the draw in _DRAWS.
      bounds: Smallest and largest value.
      neutral: Value that leaves the image unchanged.

    Returns:
      float32 scalar.
    """
    low, high = bounds
    if low == high == neutral:
      return jnp.float32(neutral)
    applied_key, value_key = jax.random.split(_draw_key(key, draw))
    value = jax.random.uniform(value_key, minval=low, maxval=high)
    return jnp.where(jax.random.bernoulli(applied_key, self.probability), value, neutral)

  def _warp(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Rotates, scales and crops an image, [H, W, C], in one interpolation."""
    # One draw in [-1, 1] gives both the direction and the size of the angle; 0 means no rotation.
    low, high = self.rotation
    sign_and_size = self._sample(key, "rotation", (-1.0, 1.0), 0.0) if high else jnp.float32(0)
    degrees = jnp.sign(sign_and_size) * (low + jnp.abs(sign_and_size) * (high - low))
    # Uniform in the logarithm: a factor and its inverse are equally likely.
    zoom = jnp.exp(self._sample(key, "scale", _log_range(self.scale), 0.0))
    share = self._sample(key, "crop", self.crop, 1.0)
    position = jax.random.uniform(_draw_key(key, "crop position"), (2,), minval=-1.0, maxval=1.0)
    return warped(image, degrees, zoom, share, position)

  def _tone(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Applies gamma, contrast, brightness and noise to an image, [H, W, C]."""
    if self.gamma != (1, 1):
      image = gamma_corrected(image, jnp.exp(self._sample(key, "gamma", _log_range(self.gamma), 0.0)))
    if self.contrast:
      image = contrasted(image, self._sample(key, "contrast", (-self.contrast, self.contrast), 0.0))
    if self.brightness:
      image = brightened(image, self._sample(key, "brightness", (-self.brightness, self.brightness), 0.0))
    if self.noise:
      variance = self._sample(key, "noise", (self.noise, self.noise), 0.0)
      image = noised(image, variance, _draw_key(key, "noise pixels"))
    return image

  def _erase(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Replaces a random rectangle of an image, float32 [H, W, C], with probability `self.erase`."""
    applied = jax.random.bernoulli(_draw_key(key, "erase"), self.erase)
    area = jax.random.uniform(_draw_key(key, "erase area"), minval=self.erase_area[0], maxval=self.erase_area[1])
    low, high = _log_range(self.erase_aspect)
    aspect = jnp.exp(jax.random.uniform(_draw_key(key, "erase aspect"), minval=low, maxval=high))
    position = jax.random.uniform(_draw_key(key, "erase position"), (2,))
    # fill: [H, W, C]
    if self.erase_fill == "mean":
      fill = jnp.broadcast_to(image.mean(axis=(0, 1), keepdims=True), image.shape)
    else:
      fill = jax.random.uniform(_draw_key(key, "erase pixels"), image.shape, maxval=255.0)
    return jnp.where(applied, erased(image, area, aspect, position, fill), image)


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


def _draw_key(key: jax.Array, name: str) -> jax.Array:
  """Returns the key of a draw in _DRAWS for the image with key `key`."""
  return jax.random.fold_in(key, 2 + _DRAWS.index(name))


def _log_range(bounds: tuple[float, ...]) -> tuple[float, ...]:
  """Returns the natural logarithms of a range."""
  return tuple(math.log(bound) for bound in bounds)


def _check(name: str, value: float, smallest: float, largest: float, expected: str) -> None:
  if not smallest <= value <= largest:
    raise ValueError(f"augmentation.{name}={value}: expected {expected}")


def _check_range(name: str, bounds: tuple[float, ...], smallest: float, largest: float, expected: str) -> None:
  if len(bounds) != 2 or not smallest <= bounds[0] <= bounds[1] <= largest:
    raise ValueError(f"augmentation.{name}={bounds}: expected {expected}, the smaller first")


def gamma_corrected(image: jax.Array, gamma: jax.Array | float) -> jax.Array:
  """Applies gamma correction, 255 (x / 255)^gamma.

  Args:
    image: Image with values of 0 to 255, any dtype; values outside are clipped.
    gamma: Exponent; values above 1 darken the image.

  Returns:
    float32 with values of 0 to 255, in the shape of the image.
  """
  return 255 * (jnp.clip(image.astype(jnp.float32), 0, 255) / 255) ** gamma


def contrasted(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Scales the distance of each intensity from the image's mean by 1 + change; returns float32, not clipped."""
  image = image.astype(jnp.float32)
  mean = image.mean()
  return mean + (image - mean) * (1 + change)


def brightened(image: jax.Array, change: jax.Array | float) -> jax.Array:
  """Multiplies all intensities by 1 + change; returns float32, not clipped."""
  return image.astype(jnp.float32) * (1 + change)


def noised(image: jax.Array, variance: jax.Array | float, key: jax.Array) -> jax.Array:
  """Adds independent Gaussian noise to each pixel and channel.

  Args:
    image: Image with values of 0 to 255, any dtype.
    variance: Variance of the noise for intensities scaled to 0..1, float scalar.
    key: PRNG key.

  Returns:
    float32 in the shape of the image, not clipped.
  """
  return image.astype(jnp.float32) + 255 * jnp.sqrt(variance) * jax.random.normal(key, image.shape)


def erased(
  image: jax.Array, area: jax.Array | float, aspect: jax.Array | float, position: jax.Array, fill: jax.Array
) -> jax.Array:
  """Replaces one rectangle of an image (Zhong et al., Random Erasing, arXiv:1708.04896).

  Args:
    image: Image, [H, W, C], any dtype.
    area: Share of the image's area, 0 to 1; the rectangle has this area up to half a row or column.
    aspect: Height divided by width, in pixels. A rectangle that does not fit into the image gets the nearest aspect
      ratio that fits, which preserves the area (the paper draws again instead).
    position: Position of the rectangle, float [2]: 0 at the top (left), up to 1 at the bottom (right).
    fill: Replacement values, [H, W, C].

  Returns:
    Image, [H, W, C], in the dtype of `image`.
  """
  height, width, _ = image.shape
  pixels = jnp.asarray(area * height * width, jnp.float32)
  # At least the height at which the rectangle is as wide as the image; at most the height of the image.
  rectangle_height = jnp.clip(jnp.sqrt(pixels * aspect), jnp.minimum(pixels / width, height), height)
  rows = jnp.clip(jnp.round(rectangle_height), 1, height)
  columns = jnp.minimum(jnp.round(pixels / rows), width)
  # If `position` is uniform, all possible positions are equally likely.
  top = jnp.minimum(jnp.floor(position[0] * (height - rows + 1)), height - rows)
  left = jnp.minimum(jnp.floor(position[1] * (width - columns + 1)), width - columns)
  # [H, 1, 1] and [1, W, 1]: the mask is [H, W, 1] and broadcasts over the channels.
  row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
  inside = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
  return jnp.where(inside, fill.astype(image.dtype), image)


def shifted(image: jax.Array, offset: jax.Array, largest: int) -> jax.Array:
  """Shifts an image; pixels from outside the image repeat the border.

  Args:
    image: Image, [H, W, C], any dtype.
    offset: Displacement (down, right) in pixels, int [2], each within +-largest.
    largest: Maximum displacement in pixels.

  Returns:
    Shifted image, in the shape and dtype of `image`.
  """
  # A slice of the padded image has a static shape, although `offset` is traced.
  padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
  start = largest - offset
  return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def warped(
  image: jax.Array, degrees: jax.Array | float, zoom: jax.Array | float, share: jax.Array | float, position: jax.Array
) -> jax.Array:
  """Rotates an image, magnifies it and resizes a window of it to the size of the image, in one bilinear interpolation.

  Args:
    image: Image, [H, W, C]; outside the image, the border repeats.
    degrees: Counter-clockwise angle of the rotation about the centre.
    zoom: Magnification about the centre, above 0.
    share: Share of the area that the window keeps, above 0 and at most 1; the window has the aspect ratio of the image.
    position: Position of the window, float [2]: -1 at the top (left), 0 in the middle, 1 at the bottom (right).

  Returns:
    float32 [H, W, C]; equal to the image for degrees 0, zoom 1 and share 1.
  """
  height, width, _ = image.shape
  middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
  side = jnp.sqrt(share)
  # Source position of each pixel of the result, relative to the centre of the image: first within the window (down [H],
  # right [W]), then rotated and divided by the zoom (row, column [H, W]).
  down = side * (jnp.arange(height) - middle_row) + position[0] * (1 - side) * height / 2
  right = side * (jnp.arange(width) - middle_column) + position[1] * (1 - side) * width / 2
  angle = jnp.deg2rad(degrees)
  cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  row = cosine * down[:, None] + sine * right[None, :] + middle_row
  column = cosine * right[None, :] - sine * down[:, None] + middle_column

  def interpolated(channel: jax.Array) -> jax.Array:
    return map_coordinates(channel, [row, column], order=1, mode="nearest")

  return jax.vmap(interpolated, in_axes=2, out_axes=2)(image.astype(jnp.float32))


def rotated(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
  """Rotates an image [H, W, C] counter-clockwise about its centre; float32, bilinear, the border repeats."""
  return warped(image, degrees, 1.0, 1.0, jnp.zeros(2))


def zoomed(image: jax.Array, zoom: jax.Array | float) -> jax.Array:
  """Magnifies an image [H, W, C] about its centre (shrinks it below 1); float32, bilinear, the border repeats."""
  return warped(image, 0.0, zoom, 1.0, jnp.zeros(2))


def cropped(image: jax.Array, share: jax.Array | float, position: jax.Array) -> jax.Array:
  """Resizes a window of an image [H, W, C] to the size of the image; `share` and `position` as in `warped`."""
  return warped(image, 0.0, 1.0, share, position)
