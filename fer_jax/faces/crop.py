"""Cuts square regions out of images and resizes images."""

import cv2
import numpy as np

from fer_jax.faces.detection import Box


def crop_face(image: np.ndarray, box: Box, size: int, margin: float = 0.2) -> np.ndarray:
  """Crops an image to a square around a face.

  Args:
    image: Image, uint8 [H, W] or [H, W, C].
    box: Box of the face.
    size: Side of the result in pixels.
    margin: Additional length of the square's side, as a share of the longer side of the box.

  Returns:
    Square, uint8 [size, size] or [size, size, C]; outside the image, the border is repeated.
  """
  return _crop(image, *face_square(box, margin), size)


def face_square(box: Box, margin: float) -> tuple[int, int, int]:
  """Returns the square that `crop_face` cuts out; parts of it can be outside the image.

  Args:
    box: Box of the face.
    margin: Additional length of the square's side, as a share of the longer side of the box.

  Returns:
    Left edge, top edge and side in pixels.
  """
  side = max(box.width, box.height) * (1 + margin)
  return _rounded_square(box.x + box.width / 2, box.y + box.height / 2, side)


def crop_square(image: np.ndarray, x: float, y: float, side: float, size: int) -> np.ndarray:
  """Crops an image to the square with centre (x, y).

  Args:
    image: Image, uint8 [H, W] or [H, W, C].
    x: Horizontal position of the centre in pixels.
    y: Vertical position of the centre in pixels.
    side: Side of the square in pixels.
    size: Side of the result in pixels.

  Returns:
    Square, uint8 [size, size] or [size, size, C]; outside the image, the border is repeated.
  """
  return _crop(image, *_rounded_square(x, y, side), size)


def _rounded_square(x: float, y: float, side: float) -> tuple[int, int, int]:
  """Rounds a square with centre (x, y) to whole pixels; returns its left edge, top edge and side."""
  pixels = max(1, round(side))
  return round(x - pixels / 2), round(y - pixels / 2), pixels


def _crop(image: np.ndarray, left: int, top: int, pixels: int, size: int) -> np.ndarray:
  """Cuts out a square, repeating the border outside the image, and resizes it to `size`."""
  height, width = image.shape[:2]
  # Number of pixels by which the square extends over each edge.
  pad_left, pad_top = max(0, -left), max(0, -top)
  pad_right, pad_bottom = max(0, left + pixels - width), max(0, top + pixels - height)
  if pad_left or pad_top or pad_right or pad_bottom:
    image = cv2.copyMakeBorder(image, pad_top, pad_bottom, pad_left, pad_right, cv2.BORDER_REPLICATE)
  # The border moves the origin by (above, before).
  return resize(image[top + pad_top :, left + pad_left :][:pixels, :pixels], size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes an image: by area averaging if it shrinks, bilinearly if it grows.

  Args:
    image: Image, uint8 [H, W] or [H, W, C].
    height: Height of the result in pixels.
    width: Width of the result in pixels.

  Returns:
    Image, uint8 [height, width] or [height, width, C] (without the last axis if C is 1 and the size changes).
  """
  if image.shape[:2] == (height, width):
    return image
  shrinks = height * width < image.shape[0] * image.shape[1]
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
