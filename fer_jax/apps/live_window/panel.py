"""Side panel of the window: predicted class, class probabilities, frame rate and delay, and the last photo."""

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage, QPixmap
from PySide6.QtWidgets import QBoxLayout, QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from fer_jax.apps.live_window.style import Colours
from fer_jax.apps.live_window.widgets import Bars

_WIDTH = 300
_THUMBNAIL = 72
_DASH = "\N{EN DASH}"
_AVERAGING_SECONDS = 1.0  # window of frame rate and delay


class Panel(QWidget):
  """Shows the predicted class, class probabilities, frame rate, delay, and the last photo.

  Args:
    class_names: Names of the network's classes.
  """

  def __init__(self, class_names: Sequence[str]):
    super().__init__()
    self.setFixedWidth(_WIDTH)
    self.label, self.caption = _label("label", _DASH), _label("caption", "no face")
    self.bars = Bars(class_names)
    self.rate, self.delay = _label("figure", _DASH), _label("figure", _DASH)
    self.thumbnail, self.photo = QLabel(), _label("caption", "")
    self.photo.setWordWrap(True)
    self._shown: deque[tuple[float, float]] = deque()
    self._photo_card = _card(_box(QHBoxLayout(), 12, self.thumbnail, self.photo, stretch=1))
    self._photo_card.hide()
    layout = QVBoxLayout(self)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(12)
    layout.addWidget(_card(_box(QVBoxLayout(), 4, self.label, self.caption, self.bars)))
    rate = _box(QVBoxLayout(), 4, _label("caption", "Frames per second"), self.rate)
    delay = _box(QVBoxLayout(), 4, _label("caption", "Delay"), self.delay)
    layout.addWidget(_card(_box(QHBoxLayout(), 12, rate, delay)))
    layout.addWidget(self._photo_card)
    layout.addStretch(1)

  def set_colours(self, colours: Colours) -> None:
    """Sets the colours of the bars."""
    self.bars.colours = colours
    self.bars.update()

  def show_face(self, class_names: Sequence[str], probability: np.ndarray | None, caption: str) -> None:
    """Shows the prediction for one face.

    Args:
      class_names: Names of the K classes.
      probability: Probability of each class, float array of shape [K]; None if there is no face.
      caption: Caption that describes which face it is.
    """
    self.label.setText(_DASH if probability is None else class_names[int(probability.argmax(-1))])
    self.caption.setText(caption)
    self.bars.show_classes(class_names, probability)

  def update_rate(self, captured_at: float) -> None:
    """Updates frame rate and delay for an image that is shown now.

    Args:
      captured_at: Time of capture on the clock of `time.perf_counter`.
    """
    now = time.perf_counter()
    self._shown.append((now, now - captured_at))
    while now - self._shown[0][0] > _AVERAGING_SECONDS:
      self._shown.popleft()
    # N images span N - 1 intervals; a rate over less than a quarter of the window would be too noisy.
    span = now - self._shown[0][0]
    if span > _AVERAGING_SECONDS / 4:
      self.rate.setText(f"{(len(self._shown) - 1) / span:.0f}")
    self.delay.setText(f"{1000 * sum(delay for _, delay in self._shown) / len(self._shown):.0f} ms")

  def clear_rate(self) -> None:
    """Clears frame rate and delay."""
    self._shown.clear()
    self.rate.setText(_DASH)
    self.delay.setText(_DASH)

  def show_photo(self, image: QImage, text: str) -> None:
    """Shows the last photo with a text next to it."""
    # Twice the display size, for high-density screens (pixel ratio 2).
    side = 2 * _THUMBNAIL
    keep_aspect, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    pixels = QPixmap.fromImage(image.scaled(side, side, keep_aspect, smooth))
    pixels.setDevicePixelRatio(2)
    self.thumbnail.setPixmap(pixels)
    self.photo.setText(text)
    self._photo_card.show()


def _label(name: str, text: str) -> QLabel:
  label = QLabel(text)
  label.setObjectName(name)
  label.setIndent(0)
  return label


def _box(layout: QBoxLayout, spacing: int, *widgets: QWidget, stretch: int = 0) -> QWidget:
  """Returns widgets in a row or column; `stretch` is the stretch factor of the last one."""
  box = QWidget()
  box.setLayout(layout)
  layout.setContentsMargins(0, 0, 0, 0)
  layout.setSpacing(spacing)
  for widget in widgets:
    layout.addWidget(widget)
  layout.setStretch(len(widgets) - 1, stretch)
  return box


def _card(content: QWidget) -> QFrame:
  card = QFrame()
  card.setObjectName("card")
  layout = QVBoxLayout(card)
  layout.setContentsMargins(16, 14, 16, 14)
  layout.addWidget(content)
  return card
