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
  trouble: str


LIGHT = Colours(
  *("#f3f4f6", "#ffffff", "#dfe3e8", "#1a1f26", "#667080", "#e9ecf0", "#16a34a", "#ffffff", "#15803d", "#b42318")
)
DARK = Colours(
  *("#14171b", "#1c2026", "#2d333b", "#e6e9ed", "#98a2b0", "#2a3038", "#34c774", "#08130c", "#5bdc93", "#ff8a7a")
)
BOX = QColor("#2ee66b")  # face boxes, green in both themes
ON_BOX = QColor("#06210f")

_SHEET = Template("""
QMainWindow, QMenuBar, QStatusBar { background: $window; color: $text; }
QWidget { color: $text; font-size: 14px; }
QMenuBar::item { background: transparent; padding: 5px 10px; border-radius: 5px; }
QMenuBar::item:selected, QMenu::item:selected { background: $track; }
QMenu { background: $card; border: 1px solid $border; padding: 4px; }
QMenu::item { padding: 6px 24px 6px 14px; border-radius: 4px; }
QFrame#card { background: $card; border: 1px solid $border; border-radius: 10px; }
QFrame#card QLabel { background: transparent; }
QLabel#word { font-size: 30px; font-weight: 600; }
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
QLabel#sentence { color: $muted; padding: 2px 8px 6px 8px; }
QLabel#sentence[trouble="true"] { color: $trouble; }
""")


def is_dark(palette: QPalette) -> bool:
  """Returns whether a palette has light text on a dark background."""
  window, text = palette.color(QPalette.ColorRole.Window), palette.color(QPalette.ColorRole.WindowText)
  return window.lightness() < text.lightness()


def colours_of(palette: QPalette) -> Colours:
  """Returns the theme that matches a palette."""
  return DARK if is_dark(palette) else LIGHT


def sheet(colours: Colours) -> str:
  """Returns the Qt style sheet for a theme."""
  return _SHEET.substitute(colours._asdict())
