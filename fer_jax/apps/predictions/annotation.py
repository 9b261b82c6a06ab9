"""Copies of pictures and videos with what was found drawn on them."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax.errors import UserError
from fer_jax.faces.crop import face_square
from fer_jax.faces.detection import Box

_GREEN = (46, 204, 64)
_INK = (10, 30, 12)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotated(image: np.ndarray, boxes: Sequence[Box], words: Sequence[str]) -> np.ndarray:
  """Returns a picture with a green box around each face, and a word on it.

  Args:
    image: uint8 [H, W] or [H, W, 3] RGB.
    boxes: of the faces.
    words: of each.

  Returns:
    uint8 [H, W, 3] RGB, a copy.
  """
  canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
  height, width = canvas.shape[:2]
  line = max(1, round(min(height, width) / 240))
  for box, word in zip(boxes, words, strict=True):
    left, top = round(box.x), round(box.y)
    right, bottom = round(box.x + box.width), round(box.y + box.height)
    cv2.rectangle(canvas, (left, top), (right, bottom), _GREEN, line)
    scale = max(0.35, min(1.5, box.width / 220))
    (wide, high), below = cv2.getTextSize(word, _FONT, scale, max(1, line - 1))
    start = max(0, min(left, width - wide - 4))
    # Above the box; inside it where there is no room above.
    base = top - below - 2 if top - high - below - 4 >= 0 else top + high + 4
    cv2.rectangle(canvas, (start, base - high - 3), (start + wide + 4, base + below), _GREEN, cv2.FILLED)
    cv2.putText(canvas, word, (start + 2, base), _FONT, scale, _INK, max(1, line - 1), cv2.LINE_AA)
  return canvas


def with_map(image: np.ndarray, box: Box, margin: float, painted: np.ndarray) -> np.ndarray:
  """Returns a picture with the painted square of a face put back to where the face was cut.

  Args:
    image: uint8 [H, W] or [H, W, 3] RGB.
    box: of the face.
    margin: as the face was cut with.
    painted: uint8 [h, w, 3] RGB.

  Returns:
    uint8 [H, W, 3] RGB, a copy.
  """
  canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
  left, top, side = face_square(box, margin)
  square = cv2.resize(painted, (side, side), interpolation=cv2.INTER_LINEAR)
  height, width = canvas.shape[:2]
  above, before = max(0, -top), max(0, -left)
  place = canvas[max(0, top) : max(0, min(top + side, height)), max(0, left) : max(0, min(left + side, width))]
  place[:] = square[above : above + place.shape[0], before : before + place.shape[1]]
  return canvas


class Gallery:
  """A folder of annotated copies: of a picture as NAME.png, of a video as NAME.mp4, NAME being its own with its ending.

  Args:
    folder: made when absent.

  Raises:
    UserError: it cannot be made.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    self._video: cv2.VideoWriter | None = None
    self._of: str | None = None
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"--annotate={folder}: cannot be made ({error.strerror}); choose another") from None

  def __enter__(self) -> "Gallery":
    return self

  def __exit__(self, *error: object) -> None:
    self._close_video()

  @staticmethod
  def ending(is_video: bool) -> str:
    """Returns what a copy's name has after that of its original."""
    return ".mp4" if is_video else ".png"

  def add_picture(self, name: str, image: np.ndarray) -> None:
    """Writes the copy of a picture, uint8 [H, W, 3] RGB; raises UserError where it cannot be written."""
    path = self._place(name + self.ending(False))
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
      raise UserError(f"{path}: cannot be written; free the place or choose another --annotate")

  def add_frame(self, name: str, image: np.ndarray, frames_per_second: float) -> None:
    """Adds a frame, uint8 [H, W, 3] RGB, to the copy of a video; those of a video come one after another."""
    if name != self._of:
      self._close_video()
      path = self._place(name + self.ending(True))
      size = (image.shape[1], image.shape[0])
      self._video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, size)
      self._of = name
      if not self._video.isOpened():
        raise UserError(f"{path}: cannot be written; free the place or choose another --annotate")
    assert self._video is not None
    self._video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

  def _place(self, name: str) -> Path:
    path = self._folder / name
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"{path.parent}: cannot be made ({error.strerror}); choose another --annotate") from None
    return path

  def _close_video(self) -> None:
    if self._video is not None:
      self._video.release()
    self._video, self._of = None, None
