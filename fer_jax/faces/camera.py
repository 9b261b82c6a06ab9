"""Reads the frames of a camera."""

import time
from collections.abc import Iterator

import cv2

from fer_jax.data.images import UnreadableImage
from fer_jax.faces.video import Frame


class Camera:
  """Iterates over the frames of a camera, in the order of their capture. A context manager, which closes the camera.

  OpenCV's messages to the terminal are silenced for the process.

  Args:
    number: Number of the camera, from 0.

  Raises:
    UnreadableImage: If there is no such camera or it returns no image; during the iteration, if it returns no more
      images.
  """

  def __init__(self, number: int):
    # OpenCV 4.13 moved the function.
    set_log_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else getattr(cv2, "setLogLevel")  # noqa: B009
    set_log_level(0)
    # OpenCV would open any camera for -1.
    capture = cv2.VideoCapture(number) if number >= 0 else None
    if capture is None or not capture.isOpened():
      raise UnreadableImage(f"camera {number} does not exist or cannot be opened")
    self._capture, self._opened = capture, time.monotonic()
    # Queue at most one frame, so that frames are current; cameras without a queue ignore the setting.
    self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    # The first image is read here, so that a camera in use by another program raises an error at once.
    found, self._first = self._capture.read()
    if not found:
      self.close()
      raise UnreadableImage(f"camera {number} returns no image; another program may be using it")

  def __enter__(self) -> "Camera":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def __iter__(self) -> Iterator[Frame]:
    found, image, number = True, self._first, 0
    while found:
      yield Frame(number, time.monotonic() - self._opened, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
      found, image = self._capture.read()
      number += 1
    if self._capture.isOpened():  # not closed by `close`
      raise UnreadableImage("the camera returns no more images; was it unplugged?")

  def close(self) -> None:
    """Closes the camera, which also ends the iteration."""
    self._capture.release()
