"""Widgets of the window: image view, class bars, and source chooser."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QComboBox, QSizePolicy, QWidget

from fer_jax.apps.live_window.capture import Source, source_name
from fer_jax.apps.live_window.painting import paint_faces, scaled_box, to_qimage
from fer_jax.apps.live_window.recognition import RecognizedImage
from fer_jax.apps.live_window.style import LIGHT, Colours

_RADIUS = 10
_BAR_HEIGHT, _ROW_HEIGHT = 10, 34  # heights in pixels of a bar and of a class's whole row


class ImageView(QWidget):
  """Shows the newest recognised image and its faces, scaled to the widget; a click chooses a face.

  Args:
    placeholder: Text shown while there is no image.
  """

  face_clicked = Signal(int)
  """Emitted with the track of the clicked face."""

  def __init__(self, placeholder: str):
    super().__init__()
    self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
    self.setMinimumSize(320, 240)
    self._placeholder = placeholder
    self._found: RecognizedImage | None = None
    self._image = QImage()
    self._selected_track: int | None = None
    self.colours = LIGHT

  @property
  def found(self) -> RecognizedImage | None:
    """Recognised image on display; None if there is none."""
    return self._found

  def sizeHint(self) -> QSize:  # noqa: N802
    """Returns a size with the 4:3 aspect ratio of common cameras."""
    return QSize(720, 540)

  def show_image(self, found: RecognizedImage | None, selected: int | None) -> None:
    """Shows a recognised image.

    Args:
      found: Image and its faces; None shows the placeholder instead.
      selected: Track of the face with the thicker box; None for no face.
    """
    if found is not self._found:
      self._image = QImage() if found is None else to_qimage(found.image)
    self._found, self._selected_track = found, selected
    self.update()

  def box_in_widget(self, face: int) -> QRectF:
    """Returns the box of a face in widget coordinates."""
    assert self._found is not None
    origin, scale = self._image_position()
    return scaled_box(self._found.boxes[face], origin, scale)

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the image and its faces, or the placeholder."""
    painter = QPainter(self)
    painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
    frame = QPainterPath()
    frame.addRoundedRect(QRectF(self.rect()), _RADIUS, _RADIUS)
    painter.setClipPath(frame)
    if self._found is None:
      painter.fillRect(self.rect(), QColor(self.colours.track))
      painter.setPen(QColor(self.colours.muted))
      inside = self.rect().adjusted(24, 24, -24, -24)
      painter.drawText(inside, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self._placeholder)
      return
    painter.fillRect(self.rect(), QColor("#0b0d10"))
    origin, scale = self._image_position()
    painter.drawImage(QRectF(origin, self._image.size().toSizeF() * scale), self._image)
    paint_faces(painter, self._found, self._selected_track, origin, scale, 1.0)

  def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
    """Emits `face_clicked` for the clicked face; if boxes overlap, for the smaller one."""
    if self._found is None:
      return
    # Faces are sorted by size, the largest first.
    for face in reversed(range(len(self._found.boxes))):
      if self.box_in_widget(face).contains(event.position()):
        self.face_clicked.emit(self._found.tracks[face])
        return

  def _image_position(self) -> tuple[QPointF, float]:
    # The largest scale at which the whole image fits, centred in the widget.
    width, height = self._image.width(), self._image.height()
    scale = min(self.width() / width, self.height() / height)
    return QPointF((self.width() - scale * width) / 2, (self.height() - scale * height) / 2), scale


class Bars(QWidget):
  """Bar chart of the class probabilities, with the most probable class highlighted.

  Args:
    class_names: Names of the classes.
  """

  def __init__(self, class_names: Sequence[str]):
    super().__init__()
    self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    self.colours: Colours = LIGHT
    self.show_classes(class_names, None)

  @property
  def probability(self) -> np.ndarray | None:
    """Displayed probabilities, float array of shape [K]; None if there is no face."""
    return self._probability

  def show_classes(self, class_names: Sequence[str], probability: np.ndarray | None) -> None:
    """Shows class names and probabilities.

    Args:
      class_names: Names of the K classes.
      probability: Probability of each class, float array of shape [K]; None shows empty bars.
    """
    self._names, self._probability = tuple(class_names), probability
    self.setFixedHeight(_ROW_HEIGHT * len(self._names))
    texts = ["no face"]
    if probability is not None:
      texts = [f"{name} {100 * p:.0f} %" for name, p in zip(self._names, probability, strict=True)]
    self.setAccessibleName(", ".join(texts))
    self.update()

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the bars."""
    painter = QPainter(self)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    best = None if self._probability is None else int(self._probability.argmax(-1))
    for k, name in enumerate(self._names):
      colour = QColor(self.colours.text if k == best else self.colours.muted)
      line = QRectF(0, k * _ROW_HEIGHT, self.width(), _ROW_HEIGHT - _BAR_HEIGHT - 4)
      painter.setPen(colour)
      painter.drawText(line, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, name)
      bar = QRectF(0, line.bottom() + 1, self.width(), _BAR_HEIGHT - 2)
      painter.setPen(Qt.PenStyle.NoPen)
      painter.setBrush(QColor(self.colours.track))
      painter.drawRoundedRect(bar, bar.height() / 2, bar.height() / 2)
      if self._probability is None:
        continue
      value = float(self._probability[k])
      # The filled part is clipped to the rounded outline of the whole bar.
      outline = QPainterPath()
      outline.addRoundedRect(bar, bar.height() / 2, bar.height() / 2)
      painter.save()
      painter.setClipPath(outline)
      fill = QColor(self.colours.accent if k == best else self.colours.muted)
      painter.fillRect(QRectF(bar.x(), bar.y(), value * bar.width(), bar.height()), fill)
      painter.restore()
      painter.setPen(colour)
      painter.drawText(line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{100 * value:.0f} %")


class Chooser(QComboBox):
  """Drop-down list of sources. It draws its own arrow, because a style sheet removes the default one."""

  @property
  def sources(self) -> list[Source]:
    """Sources in the list."""
    items = (self.itemData(i) for i in range(self.count()))
    return [source for source in items if source is not None]

  def set_sources(self, sources: Sequence[Source], selected: Source | None) -> None:
    """Replaces the list of sources; duplicates are removed.

    Args:
      sources: New sources.
      selected: Source to select; the first one is selected if it is not in the list.
    """
    absolute = lambda source: source.absolute() if isinstance(source, Path) else source  # noqa: E731
    distinct = list(dict.fromkeys(map(absolute, sources)))
    self.clear()
    for source in distinct:
      self.addItem(source_name(source), source)
    if not distinct:
      self.addItem("No camera", None)
    self.setCurrentIndex(distinct.index(absolute(selected)) if absolute(selected) in distinct else 0)

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the closed list with its arrow."""
    super().paintEvent(event)
    painter = QPainter(self)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(self.palette().text().color(), 1.5))
    x, y = self.width() - 18.0, self.height() / 2
    painter.drawPolyline([QPointF(x - 4, y - 2), QPointF(x, y + 2), QPointF(x + 4, y - 2)])
