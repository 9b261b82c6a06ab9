"""Test-time augmentation (TTA): the views of an image whose probabilities are averaged. Pure functions on the device.

A view is the image, optionally mirrored, shifted by a margin with the border repeated. This is a crop, in the size of
the image, of the image padded by repeating its border. The size stays the same, so every network accepts a view, and
the network has seen such images in training with the augmentation `shift`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.data.augment import shifted


class View(NamedTuple):
  """Transformation of an image into one view.

  Attributes:
    down: Vertical shift, as a multiple of the margin: -1, 0 or 1.
    right: Horizontal shift, as a multiple of the margin: -1, 0 or 1.
    mirrored: Whether the image is mirrored horizontally, before the shift.
  """

  down: int
  right: int
  mirrored: bool


# Centre and corners, each unchanged and mirrored (Krizhevsky et al. 2012). Every protocol is a prefix of this tuple.
TEN_CROP = tuple(
  View(down, right, mirrored)
  for down, right in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
  for mirrored in (False, True)
)
# Number of averaged views by protocol name.
PROTOCOLS = {"single": 1, "flip": 2, "ten_crop": 10}


def apply_view(image: jax.Array, number: jax.Array, margin: int) -> jax.Array:
  """Returns a view of an image.

  Args:
    image: Image, [H, W, C], any dtype.
    number: Number of the view in `TEN_CROP`, int scalar.
    margin: Length of the shift in pixels.

  Returns:
    View, in the shape and dtype of the image.
  """
  # int32 [3]: down, right, mirrored. A table lookup, because `number` is traced.
  view = jnp.array(TEN_CROP, jnp.int32)[number]
  image = jnp.where(view[2] == 1, image[:, ::-1], image)
  return shifted(image, margin * view[:2], margin)
