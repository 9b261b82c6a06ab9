"""Converts images to Qt and draws face boxes and captions on them."""

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QImage, QPainter, QPen

from fer_jax.apps.live_window.recognition import Recognized
from fer_jax.apps.live_window.style import BOX, ON_BOX
from fer_jax.data.images import in_channels
from fer_jax.faces.detection import Box

_FONT_PIXELS, _PEN_PIXELS, _CHOSEN_PEN_PIXELS, _RADIUS_PIXELS = 14, 2, 3, 5


def image_of(image: np.ndarray) -> QImage:
  """Returns an image, uint8 [H, W] or [H, W, 3], as a QImage with its own copy of the pixels."""
  rgb = np.ascontiguousarray(in_channels(image, 3))
  height, width, _ = rgb.shape
  return QImage(rgb.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()


def annotated(found: Recognized, chosen: int | None = None) -> QImage:
  """Returns a recognised image with boxes and captions, in its original size.

  Args:
    found: Image and its faces.
    chosen: Track of the face with the thicker box; None for no face.
  """
  image = image_of(found.image)
  painter = QPainter(image)
  painter.setRenderHint(QPainter.RenderHint.Antialiasing)
  paint_faces(painter, found, chosen, QPointF(0, 0), 1.0, max(1.0, min(image.width(), image.height()) / 480))
  painter.end()
  return image


def caption(found: Recognized, face: int) -> str:
  """Returns the most probable class of a face and its percentage."""
  probability = found.probability[face]
  best = int(probability.argmax())
  return f"{found.class_names[best]} {100 * probability[best]:.0f} %"


def placed(box: Box, origin: QPointF, scale: float) -> QRectF:
  """Returns the rectangle of a box in an image drawn at `origin` and enlarged by `scale`."""
  return QRectF(origin.x() + scale * box.x, origin.y() + scale * box.y, scale * box.width, scale * box.height)


def paint_faces(
  painter: QPainter, found: Recognized, chosen: int | None, origin: QPointF, scale: float, unit: float
) -> None:
  """Draws a box around each face, with its class and percentage above.

  Args:
    painter: Painter of the device on which the image was drawn.
    found: Faces to draw.
    chosen: Track of the face with the thicker box; None for no face.
    origin: Position of the image's upper left corner.
    scale: Scale at which the image was drawn.
    unit: Scale of text and lines.
  """
  font = QFont(painter.font())
  font.setPixelSize(round(_FONT_PIXELS * unit))
  font.setWeight(QFont.Weight.DemiBold)
  painter.setFont(font)
  metrics = QFontMetricsF(font)
  radius = _RADIUS_PIXELS * unit
  # Faces are sorted by size; the largest is drawn last, on top of the others.
  for face, (box, track) in reversed(list(enumerate(zip(found.boxes, found.tracks, strict=True)))):
    place = placed(box, origin, scale)
    width = (_CHOSEN_PEN_PIXELS if track == chosen else _PEN_PIXELS) * unit
    # A translucent dark outline keeps the green box visible on bright images.
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(0, 0, 0, 90), width + 2 * unit))
    painter.drawRoundedRect(place, radius, radius)
    painter.setPen(QPen(BOX, width))
    painter.drawRoundedRect(place, radius, radius)
    text = caption(found, face)
    label = QRectF(place.x(), place.y(), metrics.horizontalAdvance(text) + 14 * unit, metrics.height() + 4 * unit)
    # The caption goes above the box, or inside it if there is no room above.
    above = label.translated(0, -label.height() - 3 * unit)
    if above.top() >= origin.y():
      label = above
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(BOX)
    painter.drawRoundedRect(label, radius, radius)
    painter.setPen(ON_BOX)
    painter.drawText(label, Qt.AlignmentFlag.AlignCenter, text)
