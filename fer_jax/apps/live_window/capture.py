"""Capture thread: reads a camera or a video file and delivers its frames."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fer_jax.data.images import UnreadableImage
from fer_jax.faces.video import Frame, Video

# Index of a camera, or path of a video file.
Source = int | Path
_LAST_INDEX = 9
_PATIENCE = 5.0  # timeout in seconds for the previous capture to end
_POLL = 0.05  # seconds between two checks of the stop flag


class Frames(Protocol):
  """Interface of an open source, implemented by `fer_jax.faces.video.Video`."""

  def __iter__(self) -> Iterator[Frame]: ...


Open = Callable[[Source], AbstractContextManager[Frames]]


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
class Ended:
  """Message that a source has ended.

  Attributes:
    session: Session number of the source.
    sentence: Reason, as a sentence for the user.
    expected: Whether the source is a video that was read to its end.
  """

  session: int
  sentence: str
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
    images: Function that is called with each image.
    ends: Function that is called with the reason when the source ends by itself; not called after `stop`.
    open_source: Function that opens the source. It, or the iteration over its frames, raises UnreadableImage on
      failure.
    clock: Clock to use; None for the system's.
  """

  def __init__(
    self,
    source: Source,
    session: int,
    images: Callable[[CapturedImage], None],
    ends: Callable[[Ended], None],
    open_source: Open = Video,
    clock: Clock | None = None,
  ):
    self._source, self._session, self._open = source, session, open_source
    self._images, self._ends = images, ends
    self._clock = clock or Clock()
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._run, name=f"capture of {source}", daemon=True)

  def start(self, after: "Capture | None" = None, search: threading.Thread | None = None) -> None:
    """Starts reading, after another capture and the camera search have ended: a camera can only be opened once.

    Args:
      after: Previous capture, which may still use the camera.
      search: Thread that searches for cameras.
    """
    self._after, self._search = after, search
    self._thread.start()

  def stop(self) -> None:
    """Signals the thread to end; an image that is currently being read is discarded."""
    self._stopped.set()

  def join(self, timeout: float | None = None) -> bool:
    """Waits for the thread to end.

    Args:
      timeout: Maximum number of seconds; None for no limit.

    Returns:
      Whether the thread has ended.
    """
    self._thread.join(timeout)
    return not self._thread.is_alive()

  def _run(self) -> None:
    self._wait_for_the_camera()
    if self._stopped.is_set():
      return
    seen = False
    try:
      with self._open(self._source) as frames:
        for frame in self._paced(frames):
          if self._stopped.is_set():
            return
          seen = True
          self._images(CapturedImage(self._session, frame.image, frame.time, self._clock.now()))
      reason = ""
    except UnreadableImage as error:
      reason = str(error)
    except Exception as error:  # shown in the window; the traceback goes to the log
      logging.getLogger(__name__).exception("capture failed")
      reason = str(error)
    if not self._stopped.is_set():
      expected = seen and not reason and isinstance(self._source, Path)
      self._ends(Ended(self._session, _sentence(self._source, seen, reason), expected))

  def _wait_for_the_camera(self) -> None:
    # Not interrupted by `stop`: the next capture joins only this thread, so it must outlive the previous one.
    if self._after is not None:
      self._after.join(_PATIENCE)
      self._after = None
    while self._search is not None and self._search.is_alive() and not self._stopped.is_set():
      self._search.join(_POLL)

  def _paced(self, frames: Frames) -> Iterator[Frame]:
    # Clock time at which time 0 of the video was shown, or would have been.
    began: float | None = None
    for frame in frames:
      if isinstance(self._source, Path):
        began = self._clock.now() - frame.time if began is None else began
        late = self._clock.now() - (began + frame.time)
        if late < 0:
          self._clock.wait(self._stopped, -late)
      yield frame


def _sentence(source: Source, seen: bool, reason: str) -> str:
  name = name_of(source)
  because = f" ({reason})" if reason else ""
  if not seen:
    advice = (
      "check that it is connected and not used by another program."
      if isinstance(source, int)
      else "choose another file."
    )
    return f"{name} cannot be opened{because}: {advice}"
  if isinstance(source, int) or reason:
    return f"{name} was lost{because}; the last image stays."
  return f"{name} has ended; the last image stays."


def name_of(source: Source) -> str:
  """Returns the display name of a source: "Camera 0", or the file name."""
  return f"Camera {source}" if isinstance(source, int) else source.name


def cameras() -> list[int]:
  """Returns the indices of the available cameras. Slow: each candidate is opened as a test."""
  return [index for index in _candidates() if _opens(index)]


def _candidates() -> list[int]:
  if sys.platform != "linux":
    return list(range(_LAST_INDEX + 1))
  # OpenCV prints a warning for an index without a device, so only existing devices are tried.
  names = (path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
  return sorted(int(name) for name in names if name.isdigit())


def _opens(index: int) -> bool:
  camera = cv2.VideoCapture(index)
  try:
    return bool(camera.isOpened())
  finally:
    camera.release()
