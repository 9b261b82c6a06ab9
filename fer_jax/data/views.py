"""Test-time augmentation: the views of one image whose probabilities are averaged, pure functions on the device.

A view is the image moved by a margin, the border repeated, and perhaps mirrored: a crop, as large as the image, of the
image with its border repeated that many times on every side. So a network of any kind can read it, and it is what the
augmentation `shift` shows in training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.data.warp import shifted


class View(NamedTuple):
  """How an image is shown once more.

  Attributes:
    down: -1, 0 or 1 margins.
    right: likewise.
    mirrored: left and right are changed, before anything is moved.
  """

  down: int
  right: int
  mirrored: bool


# The centre and the corners, each as it is and mirrored (Krizhevsky et al. 2012). Every protocol is a beginning of it.
TEN_CROP = tuple(
  View(down, right, mirrored)
  for down, right in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
  for mirrored in (False, True)
)
# How many views are averaged, by the name of a protocol.
PROTOCOLS = {"single": 1, "flip": 2, "ten_crop": 10}


def seen_as(image: jax.Array, number: jax.Array, margin: int) -> jax.Array:
  """Returns a view of an image.

  Args:
    image: [H, W, C], any dtype.
    number: int scalar, of the view in `TEN_CROP`.
    margin: pixels.
  """
  views = jnp.array(TEN_CROP, jnp.int32)[number]
  image = jnp.where(views[2] == 1, image[:, ::-1], image)
  return shifted(image, margin * views[:2], margin)
