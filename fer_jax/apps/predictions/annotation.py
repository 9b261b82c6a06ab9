"""Draws face boxes, labels and saliency maps on images."""

from collections.abc import Sequence

import cv2
import numpy as np

from fer_jax.data.images import in_channels
from fer_jax.faces.crop import face_square
from fer_jax.faces.detection import Box

_GREEN = (46, 204, 64)
_INK = (10, 30, 12)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotated(image: np.ndarray, boxes: Sequence[Box], words: Sequence[str]) -> np.ndarray:
  """Returns a copy of an image with a green box around each face and a label on each box.

  Args:
    image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
    boxes: Boxes of the faces.
    words: Labels of the faces.

  Returns:
    Annotated copy, uint8 array of shape [H, W, 3] (RGB).
  """
  canvas = in_channels(image, 3).copy()
  height, width = canvas.shape[:2]
  # Line width and font size scale with the image and the box.
  line = max(1, round(min(height, width) / 240))
  for box, word in zip(boxes, words, strict=True):
    left, top = round(box.x), round(box.y)
    right, bottom = round(box.x + box.width), round(box.y + box.height)
    cv2.rectangle(canvas, (left, top), (right, bottom), _GREEN, line)
    scale = max(0.35, min(1.5, box.width / 220))
    (wide, high), below = cv2.getTextSize(word, _FONT, scale, max(1, line - 1))
    start = max(0, min(left, width - wide - 4))
    # The label goes above the box, or inside it if there is no room above.
    base = top - below - 2 if top - high - below - 4 >= 0 else top + high + 4
    cv2.rectangle(canvas, (start, base - high - 3), (start + wide + 4, base + below), _GREEN, cv2.FILLED)
    cv2.putText(canvas, word, (start + 2, base), _FONT, scale, _INK, max(1, line - 1), cv2.LINE_AA)
  return canvas


def put_back(canvas: np.ndarray, box: Box, margin: float, painted: np.ndarray) -> None:
  """Copies a painted face crop back to its position in the image.

  Args:
    canvas: Image to draw on, uint8 array of shape [H, W, 3] (RGB); modified in-place.
    box: Box of the face.
    margin: Margin with which the face was cropped.
    painted: Painted crop, uint8 array of shape [side, side, 3] (RGB).
  """
  left, top, side = face_square(box, margin)
  height, width = canvas.shape[:2]
  # The crop may extend beyond the image: rows above and columns to the left of it are skipped.
  above, before = max(0, -top), max(0, -left)
  place = canvas[max(0, top) : max(0, min(top + side, height)), max(0, left) : max(0, min(left + side, width))]
  place[:] = painted[above : above + place.shape[0], before : before + place.shape[1]]
