"""Widgets of the window: image view, class bars, and source chooser."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QComboBox, QSizePolicy, QWidget

from fer_jax.apps.live_window.capture import Source, name_of
from fer_jax.apps.live_window.painting import image_of, paint_faces, placed
from fer_jax.apps.live_window.recognition import Recognized
from fer_jax.apps.live_window.style import LIGHT, Colours

_RADIUS = 10
_BAR, _ROW = 10, 34  # heights in pixels of a bar and of a class's whole row


class ImageView(QWidget):
  """Shows the newest recognised image and its faces, scaled to the widget; a click chooses a face.

  Args:
    invitation: Text shown while there is no image.
  """

  face_clicked = Signal(int)
  """Emitted with the track of the clicked face."""

  def __init__(self, invitation: str):
    super().__init__()
    self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
    self.setMinimumSize(320, 240)
    self._invitation = invitation
    self._found: Recognized | None = None
    self._image = QImage()
    self._chosen: int | None = None
    self.colours = LIGHT

  @property
  def found(self) -> Recognized | None:
    """Recognised image on display; None if there is none."""
    return self._found

  def sizeHint(self) -> QSize:  # noqa: N802
    """Returns a size with the 4:3 aspect ratio of common cameras."""
    return QSize(720, 540)

  def show_image(self, found: Recognized | None, chosen: int | None) -> None:
    """Shows a recognised image.

    Args:
      found: Image and its faces; None shows the invitation instead.
      chosen: Track of the face with the thicker box; None for no face.
    """
    if found is not self._found:
      self._image = QImage() if found is None else image_of(found.image)
    self._found, self._chosen = found, chosen
    self.update()

  def place_of(self, face: int) -> QRectF:
    """Returns the box of a face in widget coordinates."""
    assert self._found is not None
    origin, scale = self._placement()
    return placed(self._found.boxes[face], origin, scale)

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the image and its faces, or the invitation."""
    painter = QPainter(self)
    painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
    frame = QPainterPath()
    frame.addRoundedRect(QRectF(self.rect()), _RADIUS, _RADIUS)
    painter.setClipPath(frame)
    if self._found is None:
      painter.fillRect(self.rect(), QColor(self.colours.track))
      painter.setPen(QColor(self.colours.muted))
      room = self.rect().adjusted(24, 24, -24, -24)
      painter.drawText(room, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self._invitation)
      return
    painter.fillRect(self.rect(), QColor("#0b0d10"))
    origin, scale = self._placement()
    painter.drawImage(QRectF(origin, self._image.size().toSizeF() * scale), self._image)
    paint_faces(painter, self._found, self._chosen, origin, scale, 1.0)

  def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
    """Emits `face_clicked` for the clicked face; if boxes overlap, for the smaller one."""
    if self._found is None:
      return
    # Faces are sorted by size, the largest first.
    for face in reversed(range(len(self._found.boxes))):
      if self.place_of(face).contains(event.position()):
        self.face_clicked.emit(self._found.tracks[face])
        return

  def _placement(self) -> tuple[QPointF, float]:
    # The largest scale at which the whole image fits, centred in the widget.
    scale = min(self.width() / self._image.width(), self.height() / self._image.height())
    return QPointF(
      (self.width() - scale * self._image.width()) / 2, (self.height() - scale * self._image.height()) / 2
    ), scale


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
    self.setFixedHeight(_ROW * len(self._names))
    text = (
      ", ".join(f"{name} {100 * p:.0f} %" for name, p in zip(self._names, probability, strict=True))
      if (probability is not None)
      else "no face"
    )
    self.setAccessibleName(text)
    self.update()

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the bars."""
    painter = QPainter(self)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    best = None if self._probability is None else int(self._probability.argmax(-1))
    for k, name in enumerate(self._names):
      line = QRectF(0, k * _ROW, self.width(), _ROW - _BAR - 4)
      painter.setPen(QColor(self.colours.text if k == best else self.colours.muted))
      painter.drawText(line, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, name)
      bar = QRectF(0, line.bottom() + 1, self.width(), _BAR - 2)
      painter.setPen(Qt.PenStyle.NoPen)
      painter.setBrush(QColor(self.colours.track))
      painter.drawRoundedRect(bar, bar.height() / 2, bar.height() / 2)
      if self._probability is None:
        continue
      share = float(self._probability[k])
      # The filled part is clipped to the rounded outline of the whole bar.
      filled = QPainterPath()
      filled.addRoundedRect(bar, bar.height() / 2, bar.height() / 2)
      painter.save()
      painter.setClipPath(filled)
      painter.fillRect(
        QRectF(bar.x(), bar.y(), share * bar.width(), bar.height()),
        QColor(self.colours.accent if k == best else self.colours.muted),
      )
      painter.restore()
      painter.setPen(QColor(self.colours.text if k == best else self.colours.muted))
      painter.drawText(line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{100 * share:.0f} %")


class Chooser(QComboBox):
  """Drop-down list of sources. It draws its own arrow, because a style sheet removes the default one."""

  @property
  def sources(self) -> list[Source]:
    """Sources in the list."""
    held = (self.itemData(place) for place in range(self.count()))
    return [source for source in held if source is not None]

  def offer(self, sources: Sequence[Source], chosen: Source | None) -> None:
    """Replaces the list of sources; duplicates are removed.

    Args:
      sources: New sources.
      chosen: Source to select; the first one is selected if it is not in the list.
    """
    whole = lambda source: source.absolute() if isinstance(source, Path) else source  # noqa: E731
    distinct = list(dict.fromkeys(map(whole, sources)))
    self.clear()
    for source in distinct:
      self.addItem(name_of(source), source)
    if not distinct:
      self.addItem("No camera", None)
    self.setCurrentIndex(distinct.index(whole(chosen)) if whole(chosen) in distinct else 0)

  def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
    """Draws the closed list with its arrow."""
    super().paintEvent(event)
    painter = QPainter(self)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(self.palette().text().color(), 1.5))
    x, y = self.width() - 18.0, self.height() / 2
    painter.drawPolyline([QPointF(x - 4, y - 2), QPointF(x, y + 2), QPointF(x + 4, y - 2)])
