"""Draws the predictions, and optionally Grad-CAM saliency maps, on copies of the images."""

from collections.abc import Sequence

import cv2
import numpy as np

from fer_jax.apps.predictions.annotation import annotated, put_back
from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.apps.predictions.images import Source
from fer_jax.apps.predictions.rows import Row
from fer_jax.data.images import in_channels
from fer_jax.faces.crop import crop_face, face_square
from fer_jax.faces.detection import Box
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.saliency import Explainer, paint


class Copies:
  """Writes annotated copies of images to a gallery.

  Args:
    gallery: Gallery for the copies.
    predictor: Predictor whose predictions are drawn.
    batch_size: Maximum number of faces per call of Grad-CAM.
    explain: Whether to overlay a Grad-CAM saliency map on each face (see `fer_jax.inference.saliency`).
  """

  def __init__(self, gallery: Gallery, predictor: Predictor, batch_size: int, explain: bool):
    self._gallery, self._predictor, self._batch_size = gallery, predictor, batch_size
    self._explainer = Explainer(predictor.classifier) if explain else None

  def add(self, source: Source, image: np.ndarray, rows: Sequence[Row], faces: np.ndarray) -> None:
    """Writes the annotated copy of an image or video frame.

    Args:
      source: Origin of the image.
      image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
      rows: Output rows of the image.
      faces: Crops that were classified, uint8 array of shape [N, h, w, C].
    """
    found = [(row.box, row.probability) for row in rows if row.box is not None and row.probability is not None]
    boxes, best = [box for box, _ in found], np.array([int(p.argmax(-1)) for _, p in found], np.int32)
    canvas = image  # `annotated` copies it
    if self._explainer is not None and found:
      canvas = in_channels(image, 3).copy()
      for box, map_ in zip(boxes, self._explainer.explain(faces, best, self._batch_size), strict=True):
        self._explain(canvas, image, box, map_)
    names = self._predictor.classifier.class_names
    drawn = annotated(canvas, boxes, [f"{names[p.argmax(-1)]} {p.max():.0%}" for _, p in found])
    if source.rate is None:
      self._gallery.add_image(source.file.name, drawn)
    else:
      self._gallery.add_frame(source.file.name, drawn, source.rate)

  def _explain(self, canvas: np.ndarray, image: np.ndarray, box: Box, map_: np.ndarray) -> None:
    """Paints the saliency map of a face, float32 [h, w], onto the canvas, in the resolution of the image."""
    if self._predictor.detector is None:
      # Without a detector the face is the whole image.
      canvas[:] = _painted(image, map_)
      return
    margin = self._predictor.classifier.margin
    _, _, side = face_square(box, margin)
    put_back(canvas, box, margin, _painted(crop_face(image, box, side, margin), map_))


def _painted(face: np.ndarray, map_: np.ndarray) -> np.ndarray:
  height, width = face.shape[:2]
  return paint(in_channels(face, 3), cv2.resize(map_, (width, height), interpolation=cv2.INTER_LINEAR))
