"""The pictures in a list of files, photographs and frames of videos alike, looked at by several threads, in order."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from fer_jax.apps.predictions.inputs import File
from fer_jax.faces import pictures
from fer_jax.faces.detection import Box
from fer_jax.faces.pictures import UnreadablePicture
from fer_jax.faces.video import Video
from fer_jax.predictor import Predictor

# The share of a video's frames, of which it only estimates how many it has, that makes it whole.
_WHOLE = 0.95


class Source(NamedTuple):
  """Where a picture is.

  Attributes:
    file: that it is in.
    frame: number of a video's frame, from 0; None for a picture.
    time: of the frame in seconds.
    rate: frames a second, of those that are looked at.
  """

  file: File
  frame: int | None = None
  time: float | None = None
  rate: float | None = None


class Looked(NamedTuple):
  """A picture, looked at.

  Attributes:
    source: where it is.
    image: uint8 [H, W] or [H, W, 3]; None where it is not needed any more, or cannot be read.
    boxes: the faces in it.
    faces: cut for the network, uint8 [h, w, C] each.
    error: why it cannot be read; "" where it can.
  """

  source: Source
  image: np.ndarray | None = None
  boxes: Sequence[Box] = ()
  faces: Sequence[np.ndarray] = ()
  error: str = ""


class Looker:
  """Reads pictures and finds the faces in them.

  Args:
    predictor: finds and cuts the faces.
    most_pixels: a picture with more is not read.
    every: of a video, the first of so many frames is looked at.
    keep: whether images are handed on.
    threads: that read and look.
    announce: told how many pictures a video has, before its first one.
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
    """Yields the pictures in files, in order; at most some pictures a thread are in memory."""
    waiting: collections.deque[Future[Looked]] = collections.deque()
    with ThreadPoolExecutor(self._threads) as pool:
      try:
        for source, read in self._sources(files):
          waiting.append(pool.submit(self._look, source, read))
          if len(waiting) >= 2 * self._threads:
            yield waiting.popleft().result()
        while waiting:
          yield waiting.popleft().result()
      finally:  # Whoever asked has stopped asking.
        for future in waiting:
          future.cancel()

  def _sources(self, files: Iterable[File]) -> Iterator[tuple[Source, Callable[[], np.ndarray]]]:
    for file in files:
      if file.is_video:
        yield from self._frames(file)
      else:
        yield Source(file), functools.partial(pictures.read, file.path, self._most_pixels)

  def _frames(self, file: File) -> Iterator[tuple[Source, Callable[[], np.ndarray]]]:
    try:
      with Video(file.path) as video:
        self._announce(-(-(video.length or 1) // self._every))
        rate = video.frames_per_second / self._every
        seen = 0
        for frame in video:
          seen += 1
          if frame.number % self._every == 0:
            yield Source(file, frame.number, frame.time, rate), functools.partial(np.asarray, frame.image)
        if video.length is not None and seen < _WHOLE * video.length:
          raise UnreadablePicture(f"ends after {seen} of about {video.length} frames; it may be cut short")
    except UnreadablePicture as error:
      yield Source(file), _raising(error)

  def _look(self, source: Source, read: Callable[[], np.ndarray]) -> Looked:
    try:
      image = read()
    except UnreadablePicture as error:
      return Looked(source, error=str(error))
    try:
      boxes = self._predictor.find(image)
      faces = [self._predictor.cut(image, box) for box in boxes]
    except (cv2.error, MemoryError) as error:  # one odd picture is not to cost the rows of all others
      reason = " ".join(str(error).split()) or "out of memory"
      return Looked(source, error=f"no faces can be looked for in {image.shape[1]}x{image.shape[0]} pixels: {reason}")
    return Looked(source, image if self._keep else None, boxes, faces)


def _raising(error: UnreadablePicture) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    raise error

  return read
