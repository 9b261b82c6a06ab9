"""Capture thread: reads a camera or a video file and delivers its frames."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.images import UnreadableImage
from fer_jax.faces.camera import Camera
from fer_jax.faces.video import Frame, Video

# Index of a camera, or path of a video file.
Source = int | Path
_LAST_CAMERA = 9
_JOIN_TIMEOUT = 5.0  # timeout in seconds for the previous capture to end
_POLL_SECONDS = 0.05  # seconds between two checks of the stop flag


# Function that opens a source, such as `open_source`.
Open = Callable[[Source], AbstractContextManager[Iterable[Frame]]]


def open_source(source: Source) -> Camera | Video:
  """Opens a camera or a video file; raises UnreadableImage if that fails."""
  return Camera(source) if isinstance(source, int) else Video(source)


@dataclass(frozen=True)
class CapturedImage:
  """A captured image to be recognised.

  Attributes:
    session: Session number, which identifies images of a source that was closed in the meantime.
    image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
    time: Time in the video in seconds; None for a single image.
    captured_at: Time of capture on the clock of `time.perf_counter`.
  """

  session: int
  image: np.ndarray
  time: float | None
  captured_at: float


@dataclass(frozen=True)
class SourceEnded:
  """Message that a source has ended, with the reason for the user; expected at the end of a video."""

  session: int
  text: str
  expected: bool


class Clock:
  """Time and interruptible sleep; replaced in tests."""

  def now(self) -> float:
    """Returns the time in seconds from an arbitrary origin."""
    return time.perf_counter()

  def wait(self, stopped: threading.Event, seconds: float) -> None:
    """Blocks until the event is set or the seconds have passed."""
    stopped.wait(seconds)


class Capture:
  """Reads a source in a separate thread, from `start` until `stop` or the end of the source.

  Frames of a camera are read as they arrive; a file is played at its recorded speed.

  Args:
    source: Index of a camera, or path of a video file.
    session: Session number for the messages of this capture.
    on_image: Function that is called with each image.
    on_end: Function that is called with the reason when the source ends by itself; not called after `stop`.
    open_source: Function that opens the source. It, or the iteration over its frames, raises UnreadableImage on
      failure.
    clock: Clock to use; None for the system's.
  """

  def __init__(
    self,
    source: Source,
    session: int,
    on_image: Callable[[CapturedImage], None],
    on_end: Callable[[SourceEnded], None],
    open_source: Open = open_source,
    clock: Clock | None = None,
  ):
    self._source, self._session, self._open = source, session, open_source
    self._on_image, self._on_end = on_image, on_end
    self._clock = clock or Clock()
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._run, name=f"capture of {source}", daemon=True)

  def start(self, previous: "Capture | None" = None, search: threading.Thread | None = None) -> None:
    """Starts reading, after the previous capture and the camera search: a camera can only be opened once."""
    self._previous, self._search = previous, search
    self._thread.start()

  def stop(self) -> None:
    """Signals the thread to end; an image that is currently being read is discarded."""
    self._stopped.set()

  def join(self, timeout: float | None = None) -> bool:
    """Waits at most `timeout` seconds for the thread to end; returns whether it has ended."""
    self._thread.join(timeout)
    return not self._thread.is_alive()

  def _run(self) -> None:
    self._wait_for_camera()
    if self._stopped.is_set():
      return
    opened = False
    try:
      with self._open(self._source) as frames:
        for frame in self._play(frames):
          if self._stopped.is_set():
            return
          opened = True
          self._on_image(CapturedImage(self._session, frame.image, frame.time, self._clock.now()))
      reason = ""
    except UnreadableImage as error:
      reason = str(error)
    except Exception as error:  # shown in the window; the traceback goes to the log
      logging.getLogger(__name__).exception("capture failed")
      reason = str(error)
    if not self._stopped.is_set():
      expected = opened and not reason and isinstance(self._source, Path)
      self._on_end(SourceEnded(self._session, _end_text(self._source, opened, reason), expected))

  def _wait_for_camera(self) -> None:
    # Not interrupted by `stop`: the next capture joins only this thread, so it must outlive the previous one.
    if self._previous is not None:
      self._previous.join(_JOIN_TIMEOUT)
      self._previous = None
    while self._search is not None and self._search.is_alive() and not self._stopped.is_set():
      self._search.join(_POLL_SECONDS)

  def _play(self, frames: Iterable[Frame]) -> Iterator[Frame]:
    # Clock time at which time 0 of the video was shown, or would have been.
    start: float | None = None
    for frame in frames:
      if isinstance(self._source, Path):
        start = self._clock.now() - frame.time if start is None else start
        late = self._clock.now() - (start + frame.time)
        if late < 0:
          self._clock.wait(self._stopped, -late)
      yield frame


def _end_text(source: Source, opened: bool, reason: str) -> str:
  name = source_name(source)
  suffix = f" ({reason})" if reason else ""
  if not opened:
    check = "check that it is connected and not used by another program"
    return f"{name} cannot be opened{suffix}: {check if isinstance(source, int) else 'choose another file'}."
  if isinstance(source, int) or reason:
    return f"{name} was lost{suffix}; the last image stays."
  return f"{name} has ended; the last image stays."


def source_name(source: Source) -> str:
  """Returns the display name of a source: "Camera 0", or the file name."""
  return f"Camera {source}" if isinstance(source, int) else source.name


def cameras() -> list[int]:
  """Returns the indices of the available cameras. Slow: each candidate is opened as a test."""
  return [index for index in _camera_indices() if _can_open(index)]


def _camera_indices() -> list[int]:
  if sys.platform != "linux":
    return list(range(_LAST_CAMERA + 1))
  # OpenCV prints a warning for an index without a device, so only existing devices are tried.
  names = (path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
  return sorted(int(name) for name in names if name.isdigit())


def _can_open(index: int) -> bool:
  camera = cv2.VideoCapture(index)
  try:
    return bool(camera.isOpened())
  finally:
    camera.release()
