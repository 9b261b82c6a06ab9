"""Augmentation on the device: pure functions of one image and a key, mapped over the batch inside the step."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What happens to a training image, in this order.

  Attributes:
    flip: probability of a mirror image.
    shift: largest displacement along each axis, in pixels; what moves in repeats the border.
  """

  flip: float = 0.5
  shift: int = 0

  def __post_init__(self) -> None:
    if not 0 <= self.flip <= 1:
      raise ValueError(f"augmentation.flip={self.flip}: expected a probability, 0 to 1")
    if self.shift < 0:
      raise ValueError(f"augmentation.shift={self.shift}: expected pixels, 0 or more")

  def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
    """Returns one image, [H, W, C] in any dtype, changed as the key says."""
    flip_key, shift_key = jax.random.split(key)
    if self.flip:
      image = jnp.where(jax.random.bernoulli(flip_key, self.flip), image[:, ::-1], image)
    if self.shift:
      image = shifted(image, jax.random.randint(shift_key, (2,), -self.shift, self.shift + 1), self.shift)
    return image


def shifted(image: jax.Array, offset: jax.Array, largest: int) -> jax.Array:
  """Moves an image [H, W, C] by offset = (down, right) pixels, each within +-largest; the border repeats."""
  padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
  start = largest - offset
  return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def standardize(image: jax.Array) -> jax.Array:
  """Brings each image to mean 0 and standard deviation 1: exposure and contrast say nothing of expression.

  Args:
    image: uint8 or float [B, H, W, C], 0 to 255.

  Returns:
    float32 [B, H, W, C]; a constant image becomes zeros.
  """
  image = image.astype(jnp.float32)
  mean = image.mean(axis=(1, 2, 3), keepdims=True)
  deviation = image.std(axis=(1, 2, 3), keepdims=True)
  return (image - mean) / jnp.maximum(deviation, 1.0)  # one grey level: below it a picture is noise
