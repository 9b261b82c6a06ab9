"""The folder of annotated copies: files that appear whole or not at all."""

import os
from pathlib import Path

import cv2
import numpy as np

from fer_jax.errors import UserError
from fer_jax.faces.video import is_utf8

# MPEG-4 counts time in at most 65535 parts of a second: two decimals of a rate up to this one fit in.
_LARGEST_RATE = 600.0


class Gallery:
  """A folder of annotated copies: of a picture as NAME.png, of a video as NAME.mp4, NAME being its own with its ending.

  A context manager: after an error a video that was being written is gone.

  Args:
    folder: made when absent.

  Raises:
    UserError: it cannot be made.
  """

  def __init__(self, folder: Path):
    if not is_utf8(folder):
      raise UserError(
        f"--annotate={folder!r}: a name that is no UTF-8, which videos cannot be written to; choose another"
      )
    self._folder = folder
    self._film: _Film | None = None
    self._of = ""
    self._make(folder)

  def __enter__(self) -> "Gallery":
    return self

  def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
    if kind is None:
      self._end_film()
    elif self._film is not None:
      self._film.discard()

  @staticmethod
  def ending(is_video: bool) -> str:
    """Returns what a copy's name has after that of its original."""
    return ".mp4" if is_video else ".png"

  def add_picture(self, name: str, image: np.ndarray) -> None:
    """Writes the copy of a picture, uint8 [H, W, 3] RGB; raises UserError where it cannot be written."""
    path = self._place(name + self.ending(False))
    part = self._part(".png")
    try:
      # OpenCV itself dies of a name that is no UTF-8.
      part.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
      os.replace(part, path)
    except OSError as error:
      raise _cannot_write(path, error.strerror or str(error)) from None
    finally:
      part.unlink(missing_ok=True)

  def add_frame(self, name: str, image: np.ndarray, frames_per_second: float) -> None:
    """Adds a frame, uint8 [H, W, 3] RGB, to the copy of a video; those of a video come one after another.

    Raises:
      UserError: it cannot be written, or the video before was not written whole.
    """
    if name != self._of:
      self._end_film()
      self._film = _Film(self._place(name + self.ending(True)), self._part(".mp4"), image, frames_per_second)
      self._of = name
    assert self._film is not None
    self._film.add(image)

  def _place(self, name: str) -> Path:
    path = self._folder / name
    self._make(path.parent)
    return path

  def _part(self, ending: str) -> Path:
    return self._folder / f".part.{os.getpid()}{ending}"

  def _make(self, folder: Path) -> None:
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --annotate") from None

  def _end_film(self) -> None:
    if self._film is not None:
      self._film.end()
    self._film, self._of = None, ""


class _Film:
  """A video that is being written, as MPEG-4.

  Args:
    path: where it is to stand.
    part: where it is written.
    image: its first frame, for the size.
    rate: frames a second.
  """

  def __init__(self, path: Path, part: Path, image: np.ndarray, rate: float):
    self._path, self._part, self._frames = path, part, 0
    height, width = image.shape[:2]
    # MPEG-4 would cut off the last row or column of an odd size.
    self._below, self._beside = height % 2, width % 2
    size = (width + self._beside, height + self._below)
    rounded = round(rate, 2) if rate <= _LARGEST_RATE else round(rate)
    self._writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), rounded, size)
    if not self._writer.isOpened():
      self.discard()
      reason = f"no MPEG-4 of {size[0]}x{size[1]} pixels and {rounded:g} frames a second can be begun there"
      raise _cannot_write(path, reason)

  def add(self, image: np.ndarray) -> None:
    """Adds a frame."""
    image = cv2.copyMakeBorder(image, 0, self._below, 0, self._beside, cv2.BORDER_REPLICATE)
    self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    self._frames += 1

  def end(self) -> None:
    """Puts the video to its place; raises UserError where it was not written whole, of which OpenCV says nothing."""
    self._writer.release()
    try:
      video = cv2.VideoCapture(str(self._part), cv2.CAP_FFMPEG)
      frames = round(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
      video.release()
      if frames != self._frames:
        raise _cannot_write(self._path, f"{frames} of {self._frames} frames are in it; is the disk full?")
      os.replace(self._part, self._path)
    except OSError as error:
      raise _cannot_write(self._path, error.strerror or str(error)) from None
    finally:
      self._part.unlink(missing_ok=True)

  def discard(self) -> None:
    """Removes what was written."""
    self._writer.release()
    self._part.unlink(missing_ok=True)


def _cannot_write(path: Path, reason: str) -> UserError:
  return UserError(f"{path}: cannot be written ({reason}); free the place or choose another --annotate")
