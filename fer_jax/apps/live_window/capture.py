"""The thread that reads a camera or a video file, and hands on its newest picture."""

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

from fer_jax.faces.pictures import UnreadablePicture
from fer_jax.faces.video import Frame, Video

# The index of a camera, or a file.
Source = int | Path
_LAST_INDEX = 9
_PATIENCE = 5.0  # seconds that another capture is given to end
_POLL = 0.05  # seconds between two looks at whether it was stopped


class Frames(Protocol):
  """What a source is once it is open: `fer_jax.faces.video.Video`, or what stands for it."""

  def __iter__(self) -> Iterator[Frame]: ...


Open = Callable[[Source], AbstractContextManager[Frames]]


@dataclass(frozen=True)
class Picture:
  """A picture that waits to be recognised.

  Attributes:
    session: number of the opening that it comes from, so that one of a source closed since can be told.
    image: uint8 [H, W] grey or [H, W, 3] RGB.
    time: its place in the video, in seconds; None if it stands alone.
    captured: when it was read, on the clock of `time.perf_counter`.
  """

  session: int
  image: np.ndarray
  time: float | None
  captured: float


@dataclass(frozen=True)
class Ended:
  """No more pictures come.

  Attributes:
    session: of the source.
    sentence: why, for the reader of the window.
    expected: whether it is a video that was read to its end.
  """

  session: int
  sentence: str
  expected: bool


class Clock:
  """The time, and a way to wait that ends early when it is asked to."""

  def now(self) -> float:
    """Returns seconds since some moment."""
    return time.perf_counter()

  def wait(self, stopped: threading.Event, seconds: float) -> None:
    """Waits until the event is set, but no longer than so many seconds."""
    stopped.wait(seconds)


class Capture:
  """Reads a source in a thread of its own, from `start` to `stop` or the source's end.

  A camera sets its own pace; a file is read at the speed that it was recorded at.

  Args:
    source: a camera's index or a file.
    session: number of this opening.
    pictures: where each is put.
    ends: is told why, when the source has no more; not when it is stopped.
    open_source: opens it; raises UnreadablePicture where it cannot, then or while it is read.
    clock: for tests.
  """

  def __init__(
    self,
    source: Source,
    session: int,
    pictures: Callable[[Picture], None],
    ends: Callable[[Ended], None],
    open_source: Open = Video,
    clock: Clock | None = None,
  ):
    self._source, self._session, self._open = source, session, open_source
    self._pictures, self._ends = pictures, ends
    self._clock = clock or Clock()
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._run, name=f"capture of {source}", daemon=True)

  def start(self, after: "Capture | None" = None, search: threading.Thread | None = None) -> None:
    """Begins to read, once another capture has ended and cameras are looked for no more: a camera opens only once."""
    self._after, self._search = after, search
    self._thread.start()

  def stop(self) -> None:
    """Asks the thread to end; a picture that is being read is not handed on."""
    self._stopped.set()

  def join(self, timeout: float | None = None) -> bool:
    """Waits for the thread, at most so many seconds, and returns whether it has ended."""
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
          self._pictures(Picture(self._session, frame.image, frame.time, self._clock.now()))
      reason = ""
    except UnreadablePicture as error:
      reason = str(error)
    except Exception as error:
      logging.getLogger(__name__).exception("capture failed")
      reason = str(error)
    if not self._stopped.is_set():
      expected = seen and not reason and isinstance(self._source, Path)
      self._ends(Ended(self._session, _sentence(self._source, seen, reason), expected))

  def _wait_for_the_camera(self) -> None:
    # Even when it is stopped meanwhile: who comes next waits for this one only.
    if self._after is not None:
      self._after.join(_PATIENCE)
      self._after = None
    while self._search is not None and self._search.is_alive() and not self._stopped.is_set():
      self._search.join(_POLL)

  def _paced(self, frames: Frames) -> Iterator[Frame]:
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
    advice = "is it connected, and does no other program use it?" if isinstance(source, int) else "choose another file."
    return f"{name} cannot be opened{because}: {advice}"
  if isinstance(source, int) or reason:
    return f"{name} was lost{because}; the last picture stays."
  return f"{name} has ended; the last picture stays."


def name_of(source: Source) -> str:
  """Returns what a source is called: "Camera 0", or the file's name."""
  return f"Camera {source}" if isinstance(source, int) else source.name


def cameras() -> list[int]:
  """Returns the indices of the cameras that open. Each is opened for that, which takes a moment."""
  return [index for index in _candidates() if _opens(index)]


def _candidates() -> list[int]:
  if sys.platform != "linux":
    return list(range(_LAST_INDEX + 1))
  # Asking for an index without a device makes OpenCV complain on the terminal.
  names = (path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
  return sorted(int(name) for name in names if name.isdigit())


def _opens(index: int) -> bool:
  camera = cv2.VideoCapture(index)
  try:
    return bool(camera.isOpened())
  finally:
    camera.release()
