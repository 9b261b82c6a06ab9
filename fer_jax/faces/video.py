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

from fer_jax.data.images import UnreadableImage

# OpenCV reads this once, when it opens the first video; -8 is FFmpeg's log level "quiet".
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_DEFAULT_RATE = 30.0  # frames per second, if the source reports none
_MAX_RATE = 1000.0  # frames per second; larger reported values are invalid


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame of a video.

  Attributes:
    number: Number of the frame, from 0.
    time: Time in seconds, since the start of the file or since the camera was opened; strictly increasing.
    image: Image, uint8 [H, W, 3] RGB.
  """

  number: int
  time: float
  image: np.ndarray


class Video:
  """Iterates over the frames of a video, once. A context manager, which closes the video.

  Files are read with FFmpeg through OpenCV, which rotates the frames according to the file's metadata. A truncated file
  ends early without an error. OpenCV's messages to the terminal are silenced for the process.

  Args:
    source: Path of a file, or number of a camera, from 0.

  Attributes:
    frames_per_second: Frame rate reported by the file or camera; 30 if none or an invalid one is reported.
    length: Number of frames reported by the file, which can be an estimate; None if none is reported, and for a camera.

  Raises:
    UnreadableImage: If there is no such file or camera, or it returns no image; during the iteration, if a camera
      returns no more images.
  """

  def __init__(self, source: str | os.PathLike[str] | int):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    self._is_camera = isinstance(source, int)
    self._capture = _open_camera(source) if isinstance(source, int) else _open_file(pathlib.Path(source))
    self._opened = time.monotonic()
    # The first frame is read here, so that an unreadable source raises an error at once.
    found, self._first = self._capture.read()
    if not found:
      self.close()
      raise UnreadableImage(
        f"camera {source} returns no image; another program may be using it"
        if self._is_camera
        else "not a readable video: it has no frames"
      )
    rate, length = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
    self.frames_per_second = rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE
    self.length = round(length) if length > 0 and not self._is_camera else None

  def __enter__(self) -> "Video":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    self.close()

  def __iter__(self) -> Iterator[Frame]:
    found, image, number, previous = True, self._first, 0, -math.inf
    while found:
      previous = self._time(number, previous)
      yield Frame(number, previous, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
      found, image = self._capture.read()
      number += 1
    # A file ends here; a camera ends only when it was closed.
    if self._is_camera and self._capture.isOpened():
      raise UnreadableImage("the camera returns no more images; was it unplugged?")

  def close(self) -> None:
    """Closes the file or the camera, which also ends the iteration."""
    self._capture.release()

  def _time(self, number: int, previous: float) -> float:
    """Returns the time of the newest frame in seconds, later than `previous`."""
    if self._is_camera:
      return time.monotonic() - self._opened
    timestamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if math.isfinite(timestamp) and timestamp >= 0 and timestamp > previous:
      return timestamp
    # Without a valid timestamp in the file, the time follows from the frame rate.
    return number / self.frames_per_second if previous < 0 else previous + 1 / self.frames_per_second


def is_utf8(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is valid UTF-8: OpenCV aborts the process on other paths."""
  try:
    os.fsencode(path).decode("utf-8")
  except ValueError:
    return False
  return True


def _open_file(path: pathlib.Path) -> cv2.VideoCapture:
  """Opens a video file; raises UnreadableImage with the reason if that fails."""
  if not is_utf8(path.absolute()):
    raise UnreadableImage("has a name that is not UTF-8, which OpenCV requires for videos; rename it")
  try:
    if not path.is_file():
      raise UnreadableImage("a folder" if path.is_dir() else "does not exist")
    with path.open("rb") as file:
      if not file.read(1):
        raise UnreadableImage("empty (0 bytes)")
  except PermissionError:
    raise UnreadableImage("no permission to read it") from None
  except (OSError, ValueError):
    raise UnreadableImage("cannot be opened") from None
  # An absolute path, and FFmpeg only: other backends would interpret names such as "http:" or "face_%d.png".
  capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
  if not capture.isOpened():
    raise UnreadableImage("not a readable video: unknown format, damaged or truncated")
  return capture


def _open_camera(number: int) -> cv2.VideoCapture:
  """Opens a camera; raises UnreadableImage if that fails."""
  # OpenCV would open any camera for -1.
  capture = cv2.VideoCapture(number) if number >= 0 else None
  if capture is None or not capture.isOpened():
    raise UnreadableImage(f"camera {number} does not exist or cannot be opened")
  # Queue at most one frame, so that frames are current; cameras without a queue ignore the setting.
  capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
  return capture
