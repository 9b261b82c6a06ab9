"""Colours and style sheet of the window, in a light and a dark theme."""

from string import Template
from typing import NamedTuple

from PySide6.QtGui import QColor, QPalette


class Colours(NamedTuple):
  """Colours of one theme, as Qt colour names."""

  window: str
  card: str
  border: str
  text: str
  muted: str
  track: str
  accent: str
  on_accent: str
  hover: str
  error: str


LIGHT = Colours(
  window="#f3f4f6",
  card="#ffffff",
  border="#dfe3e8",
  text="#1a1f26",
  muted="#667080",
  track="#e9ecf0",
  accent="#16a34a",
  on_accent="#ffffff",
  hover="#15803d",
  error="#b42318",
)
DARK = Colours(
  window="#14171b",
  card="#1c2026",
  border="#2d333b",
  text="#e6e9ed",
  muted="#98a2b0",
  track="#2a3038",
  accent="#34c774",
  on_accent="#08130c",
  hover="#5bdc93",
  error="#ff8a7a",
)
BOX = QColor("#2ee66b")  # face boxes, green in both themes
BOX_TEXT = QColor("#06210f")

_STYLE_SHEET = Template("""
QMainWindow, QMenuBar, QStatusBar { background: $window; color: $text; }
QWidget { color: $text; font-size: 14px; }
QMenuBar::item { background: transparent; padding: 5px 10px; border-radius: 5px; }
QMenuBar::item:selected, QMenu::item:selected { background: $track; }
QMenu { background: $card; border: 1px solid $border; padding: 4px; }
QMenu::item { padding: 6px 24px 6px 14px; border-radius: 4px; }
QFrame#card { background: $card; border: 1px solid $border; border-radius: 10px; }
QFrame#card QLabel { background: transparent; }
QLabel#label { font-size: 30px; font-weight: 600; }
QLabel#caption { color: $muted; font-size: 12px; padding: 0 0 4px 0; }
QLabel#figure { font-size: 18px; font-weight: 600; }
QPushButton, QComboBox {
  background: $card; border: 1px solid $border; border-radius: 8px; padding: 8px 14px; min-height: 20px;
}
QPushButton:hover, QComboBox:hover { border-color: $accent; }
QPushButton:focus, QComboBox:focus { border: 1px solid $accent; }
QPushButton:pressed { background: $track; }
QPushButton:disabled { color: $muted; background: $window; }
QPushButton#primary { background: $accent; color: $on_accent; border-color: $accent; font-weight: 600; }
QPushButton#primary:hover, QPushButton#primary:focus { background: $hover; border-color: $hover; }
QPushButton#primary:disabled { background: $track; color: $muted; border-color: $track; }
QComboBox::drop-down { border: none; width: 22px; }
QComboBox QAbstractItemView {
  background: $card; border: 1px solid $border; selection-background-color: $track; selection-color: $text;
}
QStatusBar::item { border: none; }
QLabel#status { color: $muted; padding: 2px 8px 6px 8px; }
QLabel#status[error="true"] { color: $error; }
""")


def theme_of(palette: QPalette) -> Colours:
  """Returns DARK if a palette has light text on a dark background, else LIGHT."""
  window, text = palette.color(QPalette.ColorRole.Window), palette.color(QPalette.ColorRole.WindowText)
  return DARK if window.lightness() < text.lightness() else LIGHT


def style_sheet(colours: Colours) -> str:
  """Returns the Qt style sheet for a theme."""
  return _STYLE_SHEET.substitute(colours._asdict())
