"""Layout of the window: image, panel, buttons, status line, and the light or dark theme."""

import functools
from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QApplication, QHBoxLayout, QLabel, QMainWindow, QPushButton, QVBoxLayout, QWidget

from fer_jax.apps.live_window.panel import Panel
from fer_jax.apps.live_window.style import style_sheet, theme_of
from fer_jax.apps.live_window.widgets import Chooser, ImageView

_STATUS_PIXELS = 46  # height of two lines, so the layout does not move for long sentences


class WindowLayout(QMainWindow):
  """Main window with its widgets, which are not yet connected to actions.

  Args:
    class_names: Names of the network's classes.
  """

  def __init__(self, class_names: Sequence[str]):
    super().__init__()
    self.setWindowTitle("Facial expressions")
    self.view, self.panel = ImageView("Open a camera or choose an image"), Panel(class_names)
    self.chooser = Chooser()
    self.chooser.setAccessibleName("Camera")
    self.chooser.setMinimumContentsLength(12)
    self.open_button = _button("Open camera", "Ctrl+O")
    self.image_button = _button("Choose image", "Ctrl+I")
    self.photo_button = _button("Take photo and recognise", "Ctrl+P")
    self.photo_button.setObjectName("primary")
    self.close_button = _button("Close camera", "Esc")
    self.status = QLabel()
    self.status.setObjectName("status")
    self.status.setWordWrap(True)
    self.status.setAlignment(Qt.AlignmentFlag.AlignTop)
    self.status.setFixedHeight(_STATUS_PIXELS)
    buttons = QHBoxLayout()
    buttons.setSpacing(8)
    for widget in (self.chooser, self.open_button, self.image_button, self.photo_button, self.close_button):
      buttons.addWidget(widget)
    buttons.insertStretch(3)
    upper = QHBoxLayout()
    upper.setSpacing(14)
    upper.addWidget(self.view, 1)
    upper.addWidget(self.panel)
    central = QWidget()
    layout = QVBoxLayout(central)
    layout.setContentsMargins(14, 6, 14, 4)
    layout.setSpacing(12)
    layout.addLayout(upper, 1)
    layout.addLayout(buttons)
    layout.addWidget(self.status)
    self.setCentralWidget(central)
    # A style sheet overrides the palette, so a change between light and dark needs a new style sheet.
    application().paletteChanged.connect(self._apply_theme)
    self._apply_theme()

  def show_status(self, text: str, error: bool = False) -> None:
    """Shows a sentence at the bottom of the window, in the error colour if `error`."""
    self.status.setText(text)
    self.status.setProperty("error", error)
    # Qt evaluates a property selector of the style sheet only when the widget is polished.
    self.status.style().polish(self.status)

  def _apply_theme(self) -> None:
    """Applies the light or dark theme of the system."""
    colours = theme_of(QApplication.palette())
    sheet = style_sheet(colours)
    if sheet != self.styleSheet():
      self.view.colours = colours
      self.panel.set_colours(colours)
      self.setStyleSheet(sheet)


@functools.cache  # Qt crashes if the object is garbage-collected
def application() -> QApplication:
  """Returns the QApplication of the process, created if necessary."""
  app = QApplication.instance()
  if isinstance(app, QApplication):
    return app
  app = QApplication(["fer_jax"])
  app.setStyle("Fusion")  # style sheets look the same in this style on every system
  return app


def _button(text: str, keys: str) -> QPushButton:
  button = QPushButton(text)
  button.setShortcut(QKeySequence(keys))
  button.setToolTip(f"{text} ({keys})")
  return button
