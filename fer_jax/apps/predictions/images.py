"""Reads images and video frames and detects their faces in several threads, in order."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.apps.predictions.inputs import File
from fer_jax.data import images
from fer_jax.data.images import UnreadableImage
from fer_jax.faces.detection import Box
from fer_jax.faces.video import Video
from fer_jax.inference.predictor import Predictor

# Minimum fraction of the declared frames for a video to count as complete; the declared number is an estimate.
_WHOLE = 0.95


class Source(NamedTuple):
  """Origin of an image.

  Attributes:
    file: File that contains it.
    frame: Index of the video frame, from 0; None for an image file.
    time: Time of the frame in seconds; None for an image file.
    rate: Processed frames per second of the video; None for an image file.
  """

  file: File
  frame: int | None = None
  time: float | None = None
  rate: float | None = None


class Looked(NamedTuple):
  """An image with its detected faces.

  Attributes:
    source: Origin of the image.
    image: Image, uint8 array of shape [H, W] or [H, W, 3]; None if it is no longer needed or could not be read.
    boxes: Boxes of the faces, the largest first.
    faces: Crops of the faces, uint8 arrays of shape [h, w, C].
    error: Reason why the image could not be processed; "" if it was.
  """

  source: Source
  image: np.ndarray | None = None
  boxes: Sequence[Box] = ()
  faces: Sequence[np.ndarray] = ()
  error: str = ""


class Looker:
  """Reads images and video frames and detects the faces in them.

  Args:
    predictor: Predictor that detects and crops the faces.
    most_pixels: Maximum number of pixels of an image; larger images get an error row.
    every: Frame interval: frames 0, every, 2 * every, ... of a video are processed.
    keep: Whether to return the pixels of the images.
    threads: Number of worker threads.
    announce: Function that is called with the number of frames to process, before the first frame of a video.
  """

  def __init__(
    self,
    predictor: Predictor,
    *,
    most_pixels: int,
    every: int,
    keep: bool,
    threads: int,
    announce: Callable[[int], None],
  ):
    self._predictor, self._most_pixels, self._every = predictor, most_pixels, every
    self._keep, self._threads, self._announce = keep, threads, announce

  def __call__(self, files: Iterable[File]) -> Iterator[Looked]:
    """Yields the images and frames of files, in order; at most two per thread are in memory.

    Args:
      files: Files to read.
    """
    # Results are yielded in the order of submission, so the first image in the queue is the next one.
    waiting: collections.deque[Future[Looked]] = collections.deque()
    with ThreadPoolExecutor(self._threads) as pool:
      try:
        for source, read in self._sources(files):
          waiting.append(pool.submit(self._look, source, read))
          if len(waiting) >= 2 * self._threads:
            yield waiting.popleft().result()
        while waiting:
          yield waiting.popleft().result()
      finally:  # after an error, or when the consumer closes the generator
        for future in waiting:
          future.cancel()

  def _sources(self, files: Iterable[File]) -> Iterator[tuple[Source, Callable[[], np.ndarray]]]:
    for file in files:
      if file.is_video:
        yield from self._frames(file)
      else:
        yield Source(file), functools.partial(images.read, file.path, self._most_pixels)

  def _frames(self, file: File) -> Iterator[tuple[Source, Callable[[], np.ndarray]]]:
    try:
      with Video(file.path) as video:
        self._announce(-(-(video.length or 1) // self._every))  # ceil(length / every)
        rate = video.frames_per_second / self._every
        seen = 0
        # Frames are decoded here, in one thread; only the face detection is parallel.
        for frame in video:
          seen += 1
          if frame.number % self._every == 0:
            yield Source(file, frame.number, frame.time, rate), functools.partial(np.asarray, frame.image)
        if video.length is not None and seen < _WHOLE * video.length:
          raise UnreadableImage(f"ends after {seen} of about {video.length} frames; it may be truncated")
    except UnreadableImage as error:
      # Raised again in the worker thread, which turns it into an error row.
      yield Source(file), _raising(error)

  def _look(self, source: Source, read: Callable[[], np.ndarray]) -> Looked:
    try:
      image = read()
    except UnreadableImage as error:
      return Looked(source, error=str(error))
    try:
      boxes = self._predictor.find(image)
      faces = [self._predictor.cut(image, box) for box in boxes]
    except (cv2.error, MemoryError) as error:  # one bad image must not end the program
      reason = " ".join(str(error).split()) or "out of memory"
      return Looked(source, error=f"face detection failed on {image.shape[1]}x{image.shape[0]} pixels: {reason}")
    return Looked(source, image if self._keep else None, boxes, faces)


def _raising(error: UnreadableImage) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    raise error

  return read
