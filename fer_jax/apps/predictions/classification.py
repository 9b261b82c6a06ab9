"""Classifies the detected faces of many images in batches and returns output rows; smooths predictions in videos."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fer_jax.apps.predictions.annotation import Annotator
from fer_jax.apps.predictions.detection import DetectedFaces
from fer_jax.apps.predictions.rows import NO_FACE, Row
from fer_jax.faces.tracking import Tracker
from fer_jax.inference.predictor import Predictor, stack_faces

_MAX_BUFFER_BYTES = 256 * 2**20  # limit for images kept in memory until their batch is full


@dataclasses.dataclass
class Counts:
  """Counts of the processed inputs.

  Attributes:
    images: Number of images and video frames.
    faces: Number of faces in them.
    faceless: Number of images and frames without a face.
    unreadable: Number of files that could not be read completely.
  """

  images: int = 0
  faces: int = 0
  faceless: int = 0
  unreadable: int = 0


class ClassificationPipeline:
  """Classifies the detected faces of a stream of images.

  Args:
    predictor: Predictor that classifies the faces.
    batch_size: Number of faces per call of the network.
    half_life: Half-life in seconds of the exponential smoothing over a video's frames; 0 disables smoothing.
    annotator: Writer of annotated copies; None to write none.
  """

  def __init__(self, predictor: Predictor, batch_size: int, half_life: float, annotator: Annotator | None):
    self._predictor, self._batch_size, self._half_life, self._annotator = predictor, batch_size, half_life, annotator
    self._tracker, self._tracked_video = Tracker(half_life), ""
    self.counts = Counts()

  def __call__(self, images: Iterable[DetectedFaces]) -> Iterator[list[Row]]:
    """Yields the list of rows of each image, in order; images are buffered until their faces fill a batch."""
    pending: list[DetectedFaces] = []
    faces = pending_bytes = 0
    for found in images:
      pending.append(found)
      faces += len(found.faces)
      pending_bytes += 0 if found.image is None else found.image.nbytes
      # Images without faces fill no batch, so the number of images and their memory are limited too.
      if faces >= self._batch_size or pending_bytes >= _MAX_BUFFER_BYTES or len(pending) >= 4 * self._batch_size:
        yield from self._classify(pending)
        pending, faces, pending_bytes = [], 0, 0
    yield from self._classify(pending)

  def _classify(self, images: Sequence[DetectedFaces]) -> Iterator[list[Row]]:
    shape = self._predictor.model.shape
    faces = stack_faces([face for found in images for face in found.faces], shape)
    probability = self._predictor.probability(faces, self._batch_size)
    # Rows start:stop of `faces` and `probability` belong to one image.
    start = 0
    for found in images:
      stop = start + len(found.faces)
      rows = self._rows(found, probability[start:stop])
      if self._annotator is not None and found.image is not None:
        self._annotator.add(found.source, found.image, rows, faces[start:stop])
      start = stop
      yield rows

  def _rows(self, found: DetectedFaces, probability: np.ndarray) -> list[Row]:
    source = found.source
    row = Row(str(source.file.path), frame=source.frame, time=source.time)
    if found.error:
      self.counts.unreadable += 1
      return [row._replace(status=f"error: {found.error}")]
    self.counts.images += 1
    self.counts.faces += len(found.boxes)
    tracks: Sequence[int | None] = [None] * len(found.boxes)
    # A frame without faces also goes through the tracker, which ends tracks that were not seen for a while.
    if source.time is not None:
      tracks, probability = self._smooth(found, source.time, probability)
    if not found.boxes:
      self.counts.faceless += 1
      return [row._replace(status=NO_FACE)]
    return [
      row._replace(face=number, track=track, box=box, probability=of_face)
      for number, (track, box, of_face) in enumerate(zip(tracks, found.boxes, probability, strict=True))
    ]

  def _smooth(self, found: DetectedFaces, time: float, probability: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Returns the tracks of a frame's faces and their smoothed probabilities, float32 [F, K]."""
    # Each video has its own tracker.
    if found.source.file.name != self._tracked_video:
      self._tracker, self._tracked_video = Tracker(self._half_life), found.source.file.name
    tracks = self._tracker.update(time, found.boxes, found.thumbnail)
    smooth = [self._tracker.smooth(track, time, each) for track, each in zip(tracks, probability, strict=True)]
    return tracks, np.array(smooth, np.float32).reshape(probability.shape)
