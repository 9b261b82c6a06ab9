"""Cuts square pictures out of pictures."""

import cv2
import numpy as np

from fer_jax.faces.detection import Box


def crop_face(image: np.ndarray, box: Box, size: int, margin: float = 0.2) -> np.ndarray:
  """Cuts out a face.

  Args:
    image: uint8 [H, W] or [H, W, C].
    box: the face.
    size: side of the result in pixels.
    margin: how much longer the square's side is than the box's longer one, as a share of it.

  Returns:
    uint8 [size, size] or [size, size, C]; beyond the picture's edge its last pixels are repeated.
  """
  side = max(box.width, box.height) * (1 + margin)
  return crop_square(image, box.x + box.width / 2, box.y + box.height / 2, side, size)


def crop_square(image: np.ndarray, x: float, y: float, side: float, size: int) -> np.ndarray:
  """Cuts out the square around (x, y); arguments in pixels, the rest as in `crop_face`."""
  pixels = max(1, round(side))
  left, top = round(x - pixels / 2), round(y - pixels / 2)
  height, width = image.shape[:2]
  before, above = max(0, -left), max(0, -top)
  after, below = max(0, left + pixels - width), max(0, top + pixels - height)
  if before or above or after or below:
    image = cv2.copyMakeBorder(image, above, below, before, after, cv2.BORDER_REPLICATE)
  return resize(image[top + above :, left + before :][:pixels, :pixels], size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes a picture, uint8 [H, W] or [H, W, C]: by area averaging where it shrinks, bilinearly where it grows."""
  if image.shape[:2] == (height, width):
    return image
  shrinks = height * width < image.shape[0] * image.shape[1]
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
