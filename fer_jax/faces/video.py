"""Reads the frames of a video file or a camera."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Iterator
from types import TracebackType

import cv2
import numpy as np

from fer_jax.faces.pictures import UnreadablePicture

# OpenCV asks once, when it opens the first video; -8 is FFmpeg's "quiet".
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_USUAL_RATE = 30.0
_LARGEST_RATE = 1000.0


@dataclasses.dataclass(frozen=True)
class Frame:
  """One picture of a video.

  Attributes:
    number: from 0.
    time: in seconds; a file's from its beginning, a camera's since it was opened. Each is later than the one before.
    image: uint8 [H, W, 3] RGB.
  """

  number: int
  time: float
  image: np.ndarray


class Video:
  """Iterates over the frames of a video, once; a context manager that closes it.

  A file is read with FFmpeg, by OpenCV, which turns its frames upright as the file says; it ends where it is cut short.
  OpenCV's messages to the terminal are silenced for the process.

  Args:
    source: path of a file, or number of a camera, from 0.

  Attributes:
    frames_per_second: as the file or the camera says; 30 where it says none that makes sense.
    length: number of frames, as the file says, which may be an estimate; None where it says none, and of a camera.

  Raises:
    UnreadablePicture: if there is no such file or camera, or it gives no picture; while iterating, if a camera gives
      none any more.
  """

  def __init__(self, source: str | os.PathLike[str] | int):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    self._is_camera = isinstance(source, int)
    self._capture = _open_camera(source) if isinstance(source, int) else _open_file(pathlib.Path(source))
    self._opened = time.monotonic()
    found, self._first = self._capture.read()
    if not found:
      self.close()
      raise UnreadablePicture(
        f"camera {source} gives no picture; another program may use it"
        if self._is_camera
        else "not a readable video: it gives no frame"
      )
    rate, length = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
    self.frames_per_second = rate if 0 < rate <= _LARGEST_RATE else _USUAL_RATE
    self.length = round(length) if length > 0 and not self._is_camera else None

  def __enter__(self) -> "Video":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    self.close()

  def __iter__(self) -> Iterator[Frame]:
    found, image, number, before = True, self._first, 0, -math.inf
    while found:
      before = self._time(number, before)
      yield Frame(number, before, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
      found, image = self._capture.read()
      number += 1
    if self._is_camera and self._capture.isOpened():
      raise UnreadablePicture("the camera gives no more pictures; was it unplugged?")

  def close(self) -> None:
    """Closes the file or the camera; the iteration then ends."""
    self._capture.release()

  def _time(self, number: int, before: float) -> float:
    """Returns the newest frame's time, later than `before`."""
    if self._is_camera:
      return time.monotonic() - self._opened
    told = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if math.isfinite(told) and told >= 0 and told > before:
      return told
    return number / self.frames_per_second if before < 0 else before + 1 / self.frames_per_second


def is_utf8(path: str | os.PathLike[str]) -> bool:
  """Says whether a path is UTF-8: OpenCV ends the process on one that is not."""
  try:
    os.fsencode(path).decode("utf-8")
  except ValueError:
    return False
  return True


def _open_file(path: pathlib.Path) -> cv2.VideoCapture:
  if not is_utf8(path.absolute()):
    raise UnreadablePicture("has a name that is no UTF-8, which videos cannot be opened by; rename it")
  try:
    if not path.is_file():
      raise UnreadablePicture("a folder" if path.is_dir() else "does not exist")
    with path.open("rb") as file:
      if not file.read(1):
        raise UnreadablePicture("empty (0 bytes)")
  except PermissionError:
    raise UnreadablePicture("no permission to read it") from None
  except (OSError, ValueError):
    raise UnreadablePicture("cannot be opened") from None
  # As a whole path, and with FFmpeg: a name like "http:" or "face_%d.png" could mean something else to the others.
  capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
  if not capture.isOpened():
    raise UnreadablePicture("not a readable video: of an unknown kind, damaged or cut short")
  return capture


def _open_camera(number: int) -> cv2.VideoCapture:
  # OpenCV's -1 would be any camera.
  capture = cv2.VideoCapture(number) if number >= 0 else None
  if capture is None or not capture.isOpened():
    raise UnreadablePicture(f"there is no camera {number}, or it cannot be opened")
  # What is seen now is wanted, not what waits in a queue; a camera that has none of its own refuses it.
  capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
  return capture
