"""The side of the window: the word, a bar for each class, how fast it goes, and the last photo."""

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage, QPixmap
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from fer_jax.apps.live_window.style import Colours
from fer_jax.apps.live_window.widgets import Bars

_WIDTH = 300
_THUMBNAIL = 72
_DASH = "\N{EN DASH}"
_SECONDS = 1.0  # over which speed and delay are averaged


class Panel(QWidget):
  """Says in words and figures what the picture shows.

  Args:
    class_names: of the network.
  """

  def __init__(self, class_names: Sequence[str]):
    super().__init__()
    self.setFixedWidth(_WIDTH)
    self.word, self.of = _label("word", _DASH), _label("caption", "no face")
    self.bars = Bars(class_names)
    self.rate, self.delay = _label("figure", _DASH), _label("figure", _DASH)
    self.thumbnail, self.photo = QLabel(), _label("caption", "")
    self.photo.setWordWrap(True)
    self._shown: deque[tuple[float, float]] = deque()
    self._photo_card = _card(_side_by_side(self.thumbnail, self.photo, stretch=1))
    self._photo_card.hide()
    layout = QVBoxLayout(self)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(12)
    layout.addWidget(_card(_stacked(self.word, self.of, self.bars)))
    layout.addWidget(
      _card(
        _side_by_side(
          _stacked(_label("caption", "Frames a second"), self.rate), _stacked(_label("caption", "Delay"), self.delay)
        )
      )
    )
    layout.addWidget(self._photo_card)
    layout.addStretch(1)

  def set_colours(self, colours: Colours) -> None:
    """Changes the look of the bars."""
    self.bars.colours = colours
    self.bars.update()

  def show_face(self, class_names: Sequence[str], probability: np.ndarray | None, of: str) -> None:
    """Shows what a face expresses, probability [K], and which face it is; without a probability, that none is there."""
    self.word.setText(_DASH if probability is None else class_names[int(probability.argmax(-1))])
    self.of.setText(of)
    self.bars.show_classes(class_names, probability)

  def count(self, captured: float) -> None:
    """Notes that a picture is shown now, which was captured then, on the clock of `time.perf_counter`."""
    now = time.perf_counter()
    self._shown.append((now, now - captured))
    while now - self._shown[0][0] > _SECONDS:
      self._shown.popleft()
    span = now - self._shown[0][0]
    if span > _SECONDS / 4:
      self.rate.setText(f"{(len(self._shown) - 1) / span:.0f}")
    self.delay.setText(f"{1000 * sum(delay for _, delay in self._shown) / len(self._shown):.0f} ms")

  def stop_counting(self) -> None:
    """Forgets speed and delay."""
    self._shown.clear()
    self.rate.setText(_DASH)
    self.delay.setText(_DASH)

  def show_photo(self, image: QImage, text: str) -> None:
    """Shows the last photo, and a text beside it."""
    scaled = image.scaled(
      *(2 * _THUMBNAIL, 2 * _THUMBNAIL),
      Qt.AspectRatioMode.KeepAspectRatio,
      Qt.TransformationMode.SmoothTransformation,
    )
    pixels = QPixmap.fromImage(scaled)
    pixels.setDevicePixelRatio(2)
    self.thumbnail.setPixmap(pixels)
    self.photo.setText(text)
    self._photo_card.show()


def _label(name: str, text: str) -> QLabel:
  label = QLabel(text)
  label.setObjectName(name)
  label.setIndent(0)
  return label


def _stacked(*widgets: QWidget) -> QWidget:
  whole = QWidget()
  layout = QVBoxLayout(whole)
  layout.setContentsMargins(0, 0, 0, 0)
  layout.setSpacing(4)
  for widget in widgets:
    layout.addWidget(widget)
  return whole


def _side_by_side(*widgets: QWidget, stretch: int = 0) -> QWidget:
  whole = QWidget()
  layout = QHBoxLayout(whole)
  layout.setContentsMargins(0, 0, 0, 0)
  layout.setSpacing(12)
  for widget in widgets:
    layout.addWidget(widget)
  layout.setStretch(len(widgets) - 1, stretch)
  return whole


def _card(content: QWidget) -> QFrame:
  card = QFrame()
  card.setObjectName("card")
  layout = QVBoxLayout(card)
  layout.setContentsMargins(16, 14, 16, 14)
  layout.addWidget(content)
  return card
