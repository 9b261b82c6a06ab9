"""Converts images to Qt and draws face boxes and captions on them."""

import contextlib
from datetime import datetime
from pathlib import Path

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QImage, QPainter, QPen

from fer_jax.apps.live_window.recognition import RecognizedImage
from fer_jax.apps.live_window.style import BOX, BOX_TEXT
from fer_jax.data.images import in_channels
from fer_jax.faces.detection import Box

_FONT_PIXELS, _PEN_PIXELS, _SELECTED_PEN_PIXELS, _RADIUS_PIXELS = 14, 2, 3, 5


def to_qimage(image: np.ndarray) -> QImage:
  """Returns an image, uint8 [H, W] or [H, W, 3], as a QImage with its own copy of the pixels."""
  rgb = np.ascontiguousarray(in_channels(image, 3))
  height, width, _ = rgb.shape
  return QImage(rgb.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()


def annotate(found: RecognizedImage, selected: int | None = None) -> QImage:
  """Returns a recognised image with boxes and captions, in its original size.

  Args:
    found: Image and its faces.
    selected: Track of the face with the thicker box; None for no face.
  """
  image = to_qimage(found.image)
  painter = QPainter(image)
  painter.setRenderHint(QPainter.RenderHint.Antialiasing)
  paint_faces(painter, found, selected, QPointF(0, 0), 1.0, max(1.0, min(image.width(), image.height()) / 480))
  painter.end()
  return image


def save_photo(found: RecognizedImage, annotated: QImage, folder: Path) -> tuple[Path, Path]:
  """Saves an image and its annotated copy as PNG files named by the time.

  Args:
    found: Image to save.
    annotated: Annotated copy.
    folder: Folder of the files; created if it does not exist.

  Returns:
    Paths of the image and of its annotated copy.

  Raises:
    OSError: The folder cannot be created or written to; then neither file exists.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise OSError(f"{folder} cannot be created ({error.strerror})") from None
  name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
  paths = folder / f"{name}.png", folder / f"{name}_faces.png"
  if not all(image.save(str(path)) for image, path in zip((to_qimage(found.image), annotated), paths, strict=True)):
    for path in paths:
      with contextlib.suppress(OSError):
        path.unlink()
    raise OSError(f"{folder} cannot be written to")
  return paths


def caption(found: RecognizedImage, face: int) -> str:
  """Returns the most probable class of a face and its percentage."""
  probability = found.probability[face]
  best = int(probability.argmax())
  return f"{found.class_names[best]} {100 * probability[best]:.0f} %"


def scaled_box(box: Box, origin: QPointF, scale: float) -> QRectF:
  """Returns the rectangle of a box in an image drawn at `origin` and enlarged by `scale`."""
  return QRectF(origin.x() + scale * box.x, origin.y() + scale * box.y, scale * box.width, scale * box.height)


def paint_faces(
  painter: QPainter, found: RecognizedImage, selected: int | None, origin: QPointF, scale: float, unit: float
) -> None:
  """Draws a box around each face, with its class and percentage above.

  Args:
    painter: Painter of the device on which the image was drawn.
    found: Faces to draw.
    selected: Track of the face with the thicker box; None for no face.
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
    outline = scaled_box(box, origin, scale)
    width = (_SELECTED_PEN_PIXELS if track == selected else _PEN_PIXELS) * unit
    # A translucent dark outline keeps the green box visible on bright images.
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(0, 0, 0, 90), width + 2 * unit))
    painter.drawRoundedRect(outline, radius, radius)
    painter.setPen(QPen(BOX, width))
    painter.drawRoundedRect(outline, radius, radius)
    text = caption(found, face)
    label = QRectF(outline.x(), outline.y(), metrics.horizontalAdvance(text) + 14 * unit, metrics.height() + 4 * unit)
    # The caption goes above the box, or inside it if there is no room above.
    above = label.translated(0, -label.height() - 3 * unit)
    if above.top() >= origin.y():
      label = above
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(BOX)
    painter.drawRoundedRect(label, radius, radius)
    painter.setPen(BOX_TEXT)
    painter.drawText(label, Qt.AlignmentFlag.AlignCenter, text)
