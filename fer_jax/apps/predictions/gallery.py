"""Output folder of annotated copies; files are written atomically."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from fer_jax.faces.crop import resize
from fer_jax.runtime.errors import UserError

_TIME_BASE = Fraction(1, 90_000)  # unit of frame times, the usual one of MPEG


class Gallery:
  """Writes annotated copies to a folder: NAME.png for an image, NAME.mp4 for a video.

  NAME is the original file name including its suffix, such as one.jpg.png. Use it as a context manager: after an error,
  an incomplete video is removed.

  Args:
    folder: Output folder; created if it does not exist.

  Raises:
    UserError: The folder cannot be created.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    self._video: _VideoFile | None = None
    self._video_name = ""
    self._create_folder(folder)

  def __enter__(self) -> "Gallery":
    return self

  def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
    try:
      if kind is None:
        self._finish_video()
    finally:
      if self._video is not None:
        self._video.discard()

  @staticmethod
  def suffix(is_video: bool) -> str:
    """Returns the suffix that a copy's name adds to that of the original."""
    return ".mp4" if is_video else ".png"

  def add_image(self, name: str, image: np.ndarray) -> None:
    """Writes the copy of an image.

    Args:
      name: Name of the original file below the input folder.
      image: Annotated image, uint8 array of shape [H, W, 3] (RGB).

    Raises:
      UserError: The file cannot be written.
    """
    path = self._path_of(name + self.suffix(False))
    part = self._temporary_path(".png")
    with _moved_to(path, part):
      # Not cv2.imwrite, which crashes for a file name that is not valid UTF-8.
      part.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())

  def add_frame(self, name: str, image: np.ndarray, time: float, duration: float) -> None:
    """Appends a frame to the copy of a video; the frames of one video must be added consecutively.

    Args:
      name: Name of the original file below the input folder.
      image: Annotated frame, uint8 array of shape [H, W, 3] (RGB), of the size of the first one or resized to it.
      time: Time of the frame in seconds, later than that of the last one.
      duration: Seconds for which the frame is shown.

    Raises:
      UserError: The copy cannot be written.
    """
    # A new name ends the previous video.
    if name != self._video_name:
      self._finish_video()
      self._video = _VideoFile(self._path_of(name + self.suffix(True)), self._temporary_path(".mp4"), image)
      self._video_name = name
    assert self._video is not None
    self._video.add(image, time, duration)

  def _path_of(self, name: str) -> Path:
    path = self._folder / name
    self._create_folder(path.parent)
    return path

  def _temporary_path(self, suffix: str) -> Path:
    return self._folder / f".part.{os.getpid()}{suffix}"

  def _create_folder(self, folder: Path) -> None:
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another --annotate") from None

  def _finish_video(self) -> None:
    if self._video is not None:
      self._video.finish()
    self._video, self._video_name = None, ""


class _VideoFile:
  """Writer of one video of the size of `image`, H.264 in MPEG-4, first to the temporary path `part`."""

  def __init__(self, path: Path, part: Path, image: np.ndarray):
    self._path, self._part, self._last = path, part, -1
    self._durations: dict[int | None, int] = {}  # duration by time, both in units of _TIME_BASE
    self._height, self._width = image.shape[:2]
    with self._writing():
      # A file object, because FFmpeg only opens names that are valid UTF-8.
      self._file = part.open("wb")
      self._container = av.open(self._file, "w", format="mp4")
      self._stream = self._container.add_stream("h264")
      # Colours are stored at half the resolution, so `add` pads odd sides by one row or column.
      self._stream.width, self._stream.height = self._width + self._width % 2, self._height + self._height % 2
      self._stream.pix_fmt = "yuv420p"
      # Without B-frames, frames are stored in the order of display: only then does the last one keep its duration.
      self._stream.codec_context.max_b_frames = 0
      self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE

  def add(self, image: np.ndarray, time: float, duration: float) -> None:
    """Appends a frame, uint8 [H, W, 3] RGB; times are in seconds."""
    padding = ((0, self._height % 2), (0, self._width % 2), (0, 0))
    image = np.pad(resize(image, self._height, self._width), padding, mode="edge")
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.time_base = _TIME_BASE
    frame.pts = self._last = max(self._last + 1, round(time / _TIME_BASE))
    self._durations[frame.pts] = max(1, round((time + duration) / _TIME_BASE) - frame.pts)
    with self._writing():
      self._write(self._stream.encode(frame))

  def finish(self) -> None:
    """Moves the finished video to its final path."""
    with self._writing():
      self._write(self._stream.encode(None))
      self._container.close()
      self._file.close()
      os.replace(self._part, self._path)

  def _write(self, packets: list[av.Packet]) -> None:
    for packet in packets:
      packet.duration = self._durations.pop(packet.pts)  # encoders do not keep it
      self._container.mux(packet)

  def discard(self) -> None:
    """Removes the temporary file."""
    for each in (self._container, self._file):
      with contextlib.suppress(av.FFmpegError, OSError):  # the disk may be full
        each.close()
    self._part.unlink(missing_ok=True)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Converts errors of FFmpeg and of the disk to UserError; the temporary file is removed by `discard`."""
    try:
      yield
    except (av.FFmpegError, OSError) as error:
      raise _cannot_write(self._path, error.strerror or str(error)) from None


@contextlib.contextmanager
def _moved_to(path: Path, part: Path) -> Iterator[None]:
  """Moves the temporary file to its final path at the end; after an error, removes it and raises UserError."""
  try:
    yield
    os.replace(part, path)
  except OSError as error:
    raise _cannot_write(path, error.strerror or str(error)) from None
  finally:
    part.unlink(missing_ok=True)


def _cannot_write(path: Path, reason: str) -> UserError:
  return UserError(f"{path}: cannot be written ({reason}); free disk space or choose another --annotate")
