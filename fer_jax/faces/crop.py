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
  return _cut(image, *face_square(box, margin), size)


def face_square(box: Box, margin: float) -> tuple[int, int, int]:
  """Returns the square that `crop_face` cuts out: left, top and side in pixels; parts may lie beyond the picture."""
  side = max(box.width, box.height) * (1 + margin)
  return _square(box.x + box.width / 2, box.y + box.height / 2, side)


def crop_square(image: np.ndarray, x: float, y: float, side: float, size: int) -> np.ndarray:
  """Cuts out the square around (x, y); arguments in pixels, the rest as in `crop_face`."""
  return _cut(image, *_square(x, y, side), size)


def _square(x: float, y: float, side: float) -> tuple[int, int, int]:
  pixels = max(1, round(side))
  return round(x - pixels / 2), round(y - pixels / 2), pixels


def _cut(image: np.ndarray, left: int, top: int, pixels: int, size: int) -> np.ndarray:
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
