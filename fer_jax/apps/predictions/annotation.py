"""Draws face boxes, labels and saliency maps on copies of the images."""

from collections.abc import Sequence

import cv2
import numpy as np

from fer_jax.apps.predictions.detection import ImageSource
from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.apps.predictions.rows import Row
from fer_jax.data.images import in_channels
from fer_jax.faces.crop import crop_face, face_square
from fer_jax.faces.detection import Box
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.saliency import Explainer, overlay

_GREEN = (46, 204, 64)
_TEXT_COLOUR = (10, 30, 12)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Annotator:
  """Writes annotated copies of images to a gallery.

  Args:
    gallery: Gallery for the copies.
    predictor: Predictor whose predictions are drawn.
    batch_size: Maximum number of faces per call of Grad-CAM.
    explain: Whether to overlay a Grad-CAM saliency map on each face (see `fer_jax.inference.saliency`).
  """

  def __init__(self, gallery: Gallery, predictor: Predictor, batch_size: int, explain: bool):
    self._gallery, self._predictor, self._batch_size = gallery, predictor, batch_size
    self._explainer = Explainer(predictor.model) if explain else None

  def add(self, source: ImageSource, image: np.ndarray, rows: Sequence[Row], faces: np.ndarray) -> None:
    """Writes the annotated copy of an image or video frame.

    Args:
      source: Origin of the image.
      image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
      rows: Output rows of the image.
      faces: Crops that were classified, uint8 array of shape [N, h, w, C].
    """
    found = [(row.box, row.probability) for row in rows if row.box is not None and row.probability is not None]
    boxes, best = [box for box, _ in found], np.array([int(p.argmax(-1)) for _, p in found], np.int32)
    canvas = image  # `draw_boxes` copies it
    if self._explainer is not None and found:
      canvas = in_channels(image, 3).copy()
      for box, saliency in zip(boxes, self._explainer.explain(faces, best, self._batch_size), strict=True):
        self._draw_saliency(canvas, image, box, saliency)
    names = self._predictor.model.class_names
    canvas = draw_boxes(canvas, boxes, [f"{names[p.argmax(-1)]} {p.max():.0%}" for _, p in found])
    if source.time is None or source.duration is None:
      self._gallery.add_image(source.file.name, canvas)
    else:
      self._gallery.add_frame(source.file.name, canvas, source.time, source.duration)

  def _draw_saliency(self, canvas: np.ndarray, image: np.ndarray, box: Box, saliency: np.ndarray) -> None:
    """Draws the saliency map of a face, float32 [h, w], onto the canvas, in the resolution of the image."""
    if self._predictor.detector is None:
      # Without a detector the face is the whole image.
      canvas[:] = _overlay(image, saliency)
      return
    margin = self._predictor.margin
    left, top, side = face_square(box, margin)
    crop = _overlay(crop_face(image, box, side, margin), saliency)  # [side, side, 3]
    height, width = canvas.shape[:2]
    # The crop may extend beyond the image: rows above and columns to the left of it are skipped.
    above, before = max(0, -top), max(0, -left)
    region = canvas[max(0, top) : max(0, min(top + side, height)), max(0, left) : max(0, min(left + side, width))]
    region[:] = crop[above : above + region.shape[0], before : before + region.shape[1]]


def draw_boxes(image: np.ndarray, boxes: Sequence[Box], labels: Sequence[str]) -> np.ndarray:
  """Returns a copy of an image with a green box around each face and a label on each box.

  Args:
    image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
    boxes: Boxes of the faces.
    labels: Labels of the faces.

  Returns:
    Annotated copy, uint8 array of shape [H, W, 3] (RGB).
  """
  canvas = in_channels(image, 3).copy()
  height, width = canvas.shape[:2]
  # Line width and font size scale with the image and the box.
  line = max(1, round(min(height, width) / 240))
  for box, label in zip(boxes, labels, strict=True):
    left, top = round(box.x), round(box.y)
    right, bottom = round(box.x + box.width), round(box.y + box.height)
    cv2.rectangle(canvas, (left, top), (right, bottom), _GREEN, line)
    scale = max(0.35, min(1.5, box.width / 220))
    (label_width, ascent), descent = cv2.getTextSize(label, _FONT, scale, max(1, line - 1))
    start = max(0, min(left, width - label_width - 4))
    # The label goes above the box, or inside it if there is no room above.
    base = top - descent - 2 if top - ascent - descent - 4 >= 0 else top + ascent + 4
    cv2.rectangle(canvas, (start, base - ascent - 3), (start + label_width + 4, base + descent), _GREEN, cv2.FILLED)
    cv2.putText(canvas, label, (start + 2, base), _FONT, scale, _TEXT_COLOUR, max(1, line - 1), cv2.LINE_AA)
  return canvas


def _overlay(face: np.ndarray, saliency: np.ndarray) -> np.ndarray:
  height, width = face.shape[:2]
  return overlay(in_channels(face, 3), cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR))
