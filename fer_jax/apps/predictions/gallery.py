"""Output folder of annotated copies; files are written atomically."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fer_jax.faces.video import is_utf8
from fer_jax.runtime.errors import UserError

# MPEG-4 has at most 65535 time steps per second, so rates up to this one can have two decimals.
_MAX_DECIMAL_RATE = 600.0


class Gallery:
  """Writes annotated copies to a folder: NAME.png for an image, NAME.mp4 for a video.

  NAME is the original file name including its suffix, such as one.jpg.png. Use it as a context manager: after an error,
  an incomplete video is removed.

  Args:
    folder: Output folder; created if it does not exist.

  Raises:
    UserError: The folder cannot be created, or its name is not valid UTF-8.
  """

  def __init__(self, folder: Path):
    if not is_utf8(folder):
      raise UserError(
        f"--annotate={folder!r}: not valid UTF-8; videos cannot be written to such a folder; choose another name"
      )
    self._folder = folder
    self._video: _VideoFile | None = None
    self._video_name = ""
    self._create_folder(folder)

  def __enter__(self) -> "Gallery":
    return self

  def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
    if kind is None:
      self._finish_video()
    elif self._video is not None:
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

  def add_frame(self, name: str, image: np.ndarray, frames_per_second: float) -> None:
    """Appends a frame to the copy of a video; the frames of one video must be added consecutively.

    Args:
      name: Name of the original file below the input folder.
      image: Annotated frame, uint8 array of shape [H, W, 3] (RGB).
      frames_per_second: Frame rate of the copy.

    Raises:
      UserError: The copy cannot be written, or the previous video was not written completely.
    """
    # A new name ends the previous video.
    if name != self._video_name:
      self._finish_video()
      self._video = _VideoFile(
        self._path_of(name + self.suffix(True)), self._temporary_path(".mp4"), image, frames_per_second
      )
      self._video_name = name
    assert self._video is not None
    self._video.add(image)

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
  """Writer of one MPEG-4 video with the size of `image`, first to the temporary path `part`."""

  def __init__(self, path: Path, part: Path, image: np.ndarray, rate: float):
    self._path, self._part, self._frames = path, part, 0
    height, width = image.shape[:2]
    # MPEG-4 would drop the last row or column of an odd size, so `add` pads it by one.
    self._extra_rows, self._extra_columns = height % 2, width % 2
    size = (width + self._extra_columns, height + self._extra_rows)
    rounded = round(rate, 2) if rate <= _MAX_DECIMAL_RATE else round(rate)
    self._writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), rounded, size)
    if not self._writer.isOpened():
      self.discard()
      reason = f"OpenCV cannot open an MPEG-4 file of {size[0]}x{size[1]} pixels at {rounded:g} frames per second"
      raise _cannot_write(path, reason)

  def add(self, image: np.ndarray) -> None:
    """Appends a frame, uint8 [H, W, 3] RGB."""
    image = cv2.copyMakeBorder(image, 0, self._extra_rows, 0, self._extra_columns, cv2.BORDER_REPLICATE)
    self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    self._frames += 1

  def finish(self) -> None:
    """Moves the finished video to its final path; raises UserError if it is incomplete.

    OpenCV reports no write errors, so the file is opened again and its frames are counted.
    """
    self._writer.release()
    with _moved_to(self._path, self._part):
      video = cv2.VideoCapture(str(self._part), cv2.CAP_FFMPEG)
      frames = round(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
      video.release()
      if frames != self._frames:
        raise OSError(f"it has {frames} of {self._frames} frames; is the disk full?")

  def discard(self) -> None:
    """Removes the temporary file."""
    self._writer.release()
    self._part.unlink(missing_ok=True)


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
