"""Reads images and video frames and detects their faces in several threads, in order."""

import collections
import dataclasses
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
from fer_jax.faces.tracking import thumbnail
from fer_jax.faces.video import Frame, Video
from fer_jax.inference.predictor import Predictor


class ImageSource(NamedTuple):
  """Origin of an image.

  Attributes:
    file: File that contains it.
    frame: Index of the video frame, from 0; None for an image file.
    time: Time of the frame in seconds; None for an image file.
    duration: Seconds until the next processed frame or the end of the video; None for an image file.
  """

  file: File
  frame: int | None = None
  time: float | None = None
  duration: float | None = None


class DetectedFaces(NamedTuple):
  """An image with its detected faces.

  Attributes:
    source: Origin of the image.
    image: Image, uint8 array of shape [H, W] or [H, W, 3]; None if it is no longer needed or could not be read.
    boxes: Boxes of the faces, the largest first.
    faces: Crops of the faces, uint8 arrays of shape [h, w, C].
    thumbnail: Thumbnail of a video frame, see `tracking.thumbnail`; None for an image file.
    error: Reason why the image could not be processed; "" if it was.
  """

  source: ImageSource
  image: np.ndarray | None = None
  boxes: Sequence[Box] = ()
  faces: Sequence[np.ndarray] = ()
  thumbnail: np.ndarray | None = None
  error: str = ""


@dataclasses.dataclass(frozen=True)
class DetectionPipeline:
  """Reads images and video frames and detects the faces in them.

  Attributes:
    predictor: Predictor that detects and crops the faces.
    max_pixels: Maximum number of pixels of an image; larger images get an error row.
    every: Frame interval: frames 0, every, 2 * every, ... of a video are processed.
    keep_images: Whether to return the pixels of the images.
    threads: Number of worker threads.
    on_video: Function that is called with the number of frames to process, before the first frame of a video.
  """

  predictor: Predictor
  max_pixels: int
  every: int
  keep_images: bool
  threads: int
  on_video: Callable[[int], None]

  def __call__(self, files: Iterable[File]) -> Iterator[DetectedFaces]:
    """Yields the images and frames of files, in order; at most two per thread are in memory."""
    # Results are yielded in the order of submission, so the first image in the queue is the next one.
    pending: collections.deque[Future[DetectedFaces]] = collections.deque()
    with ThreadPoolExecutor(self.threads) as pool:
      try:
        for file in files:
          for future in self._submit(pool, file):
            pending.append(future)
            if len(pending) >= 2 * self.threads:
              yield pending.popleft().result()
        while pending:
          yield pending.popleft().result()
      finally:  # after an error, or when the consumer closes the generator
        for future in pending:
          future.cancel()

  def _submit(self, pool: ThreadPoolExecutor, file: File) -> Iterator[Future[DetectedFaces]]:
    if not file.is_video:
      read = functools.partial(images.read_image, file.path, self.max_pixels)
      yield pool.submit(self._detect, ImageSource(file), read)
      return
    try:
      with Video(file.path) as video:
        self.on_video(-(-(video.length or 1) // self.every))  # ceil(length / every)
        # Frames are decoded here, in one thread; only the face detection is parallel. A frame is submitted when it is
        # known how long it lasts.
        waiting: Frame | None = None
        for frame in video:
          if frame.number % self.every == 0:
            if waiting is not None:
              yield self._submit_frame(pool, file, waiting, frame.time)
            waiting = frame
        if waiting is not None:
          yield self._submit_frame(pool, file, waiting, video.end)
        if video.fault:
          raise UnreadableImage(video.fault)
    except UnreadableImage as error:
      failed: Future[DetectedFaces] = Future()
      # A file without a known suffix is tried as both.
      reason = str(error) if file.is_known else f"{images.UNKNOWN_FORMAT}; and {error}"
      failed.set_result(DetectedFaces(ImageSource(file), error=reason))
      yield failed

  def _submit_frame(self, pool: ThreadPoolExecutor, file: File, frame: Frame, end: float) -> Future[DetectedFaces]:
    source = ImageSource(file, frame.number, frame.time, end - frame.time)
    return pool.submit(self._detect, source, functools.partial(np.asarray, frame.image))

  def _detect(self, source: ImageSource, read: Callable[[], np.ndarray]) -> DetectedFaces:
    try:
      image = read()
    except UnreadableImage as error:
      return DetectedFaces(source, error=str(error))
    try:
      boxes = self.predictor.find(image)
      faces = [self.predictor.cut(image, box) for box in boxes]
    except (cv2.error, MemoryError, OverflowError, ValueError) as error:  # one bad image must not end the program
      reason = " ".join(str(error).split()) or "out of memory"
      return DetectedFaces(source, error=f"face detection failed on {image.shape[1]}x{image.shape[0]} pixels: {reason}")
    small = None if source.time is None else thumbnail(image)
    return DetectedFaces(source, image if self.keep_images else None, boxes, faces, small)
