"""Recognition thread: detects the faces in the newest image and classifies their expressions."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_jax.apps.live_window.capture import CapturedImage
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.data import images
from fer_jax.data.images import UnreadableImage
from fer_jax.faces.detection import Box, Detector
from fer_jax.faces.tracking import Tracker, thumbnail
from fer_jax.inference.predictor import Predictor, stack_faces
from fer_jax.runtime.errors import UserError

# Batch sizes compiled before the first image; larger batches are compiled when they first occur.
_COMPILED_BATCH_SIZES = (1, 2)


@dataclass(frozen=True)
class ReadImage:
  """Request to read an image file and recognise it; the response has the same session number."""

  session: int
  path: Path


@dataclass(frozen=True)
class LoadRun:
  """Request to use the network of the run in this folder from now on."""

  workdir: Path


@dataclass(frozen=True)
class RecognizedImage:
  """An image with its F recognised faces, the largest first; K is the number of classes.

  Attributes:
    session: Session number of the image.
    image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
    boxes: Boxes of the F faces.
    tracks: Track numbers of the F faces; a face keeps its number from image to image.
    probability: Probability of each class, smoothed over time, float32 array of shape [F, K].
    class_names: Names of the K classes.
    captured_at: Time of capture on the clock of `time.perf_counter`.
    finished: Time at which recognition finished, on the same clock.
  """

  session: int
  image: np.ndarray
  boxes: list[Box]
  tracks: list[int]
  probability: np.ndarray
  class_names: tuple[str, ...]
  captured_at: float
  finished: float

  @property
  def delay(self) -> float:
    """Seconds from the capture of the image to the end of its recognition."""
    return self.finished - self.captured_at


@dataclass(frozen=True)
class ModelReady:
  """Response that a network is loaded and compiled, with its description for the user."""

  text: str
  class_names: tuple[str, ...]


@dataclass(frozen=True)
class RecognitionFailed:
  """Response that a request failed, with the reason as a sentence for the user."""

  text: str


Request = CapturedImage | ReadImage | LoadRun
Response = RecognizedImage | ModelReady | RecognitionFailed


class Recognizer:
  """Recognises the faces in a sequence of images; keeps the face tracks between images as its only state.

  Args:
    predictor: Predictor that detects and classifies faces.
    smoothing: Half-life in seconds of the exponential smoothing of a face's probabilities; 0 disables smoothing.
    detector: Faster detector for cameras and videos; None for the predictor's own detector.
  """

  def __init__(self, predictor: Predictor, smoothing: float, detector: Detector | None = None):
    self._predictor, self._smoothing = predictor, smoothing
    # A predictor without a detector treats each whole image as one face; `detector` must not change that.
    use_detector = detector is not None and predictor.detector is not None
    self._video_predictor = Predictor(predictor.model, detector, predictor.views) if use_detector else predictor
    self._session: int | None = None

  def prepare(self) -> None:
    """Compiles the network in advance, so that the first image is not delayed."""
    shape = self._predictor.model.shape
    for size in _COMPILED_BATCH_SIZES:
      self._predictor.probability(np.zeros((size, *shape), np.uint8))

  def __call__(self, captured: CapturedImage) -> RecognizedImage:
    """Detects, classifies and tracks the faces in an image."""
    boxes = (self._predictor if captured.time is None else self._video_predictor).find(captured.image)
    faces = [self._predictor.cut(captured.image, box) for box in boxes]
    probability = self._predictor.probability(stack_faces(faces, self._predictor.model.shape))
    # Single images (time None) are not tracked or smoothed, and always use the predictor's own detector.
    tracks = list(range(len(boxes)))
    if captured.time is not None:
      if captured.session != self._session:
        self._session, self._tracker = captured.session, Tracker(self._smoothing)
      tracks = self._tracker.update(captured.time, boxes, thumbnail(captured.image))
      for i, track in enumerate(tracks):
        probability[i] = self._tracker.smooth(track, captured.time, probability[i])
    return RecognizedImage(
      session=captured.session,
      image=captured.image,
      boxes=boxes,
      tracks=tracks,
      probability=probability,
      class_names=self._predictor.model.class_names,
      captured_at=captured.captured_at,
      finished=time.perf_counter(),
    )


class Recognition:
  """Processes requests in a separate thread, from `start` to `stop`.

  The thread compiles and applies networks and loads further runs; only the first predictor is loaded by the caller.

  Args:
    predictor: Initial predictor, used until the first `LoadRun` request.
    load: Function that returns the predictor of a run's folder, or raises UserError.
    requests: Mailbox of requests; closed by `stop`.
    responses: Function that is called with each `RecognizedImage`, `ModelReady` and `RecognitionFailed`.
    smoothing: Half-life in seconds, see `Recognizer`.
    detector: Faster detector for cameras and videos, see `Recognizer`.
  """

  def __init__(
    self,
    predictor: Predictor,
    load: Callable[[Path], Predictor],
    requests: Mailbox[Request],
    responses: Callable[[Response], None],
    smoothing: float,
    detector: Detector | None = None,
  ):
    self._load, self._requests, self._responses = load, requests, responses
    self._smoothing, self._detector = smoothing, detector
    self._initial, self._latest_session = predictor, 0
    self._recognizer = Recognizer(predictor, smoothing, detector)
    self._thread = threading.Thread(target=self._run, name="recognition", daemon=True)

  def start(self) -> None:
    """Starts the thread, which compiles the network and then processes requests."""
    self._thread.start()

  def stop(self) -> None:
    """Closes the mailbox of requests; the thread ends after the current request."""
    self._requests.close()

  def join(self, timeout: float | None = None) -> bool:
    """Waits at most `timeout` seconds for the thread to end; returns whether it has ended."""
    self._thread.join(timeout)
    return not self._thread.is_alive()

  def _run(self) -> None:
    self._respond(lambda: self._use_model(self._initial))
    while (request := self._requests.take(None)) is not None:
      self._respond(lambda request=request: self._process(request))  # type: ignore[misc]

  def _respond(self, work: Callable[[], Response | None]) -> None:
    """Sends the result of `work`, if any, or `RecognitionFailed` after an exception: the thread keeps running."""
    response: Response | None
    try:
      response = work()
    except UserError as error:
      response = RecognitionFailed(str(error))
    except Exception as error:
      logging.getLogger(__name__).exception("recognition failed")
      response = RecognitionFailed(f"The recognition failed: {error}")
    if response is not None:
      self._responses(response)

  def _process(self, request: Request) -> Response | None:
    if isinstance(request, LoadRun):
      return self._use_model(self._load(request.workdir))
    # Skip a late image of a closed source: its response could replace that of a newer request in the mailbox.
    if request.session < self._latest_session:
      return None
    self._latest_session = request.session
    if isinstance(request, CapturedImage):
      return self._recognizer(request)
    try:
      image = images.read_image(request.path)
    except UnreadableImage as error:
      return RecognitionFailed(f"{request.path.name} cannot be read ({error}): choose another image.")
    return self._recognizer(CapturedImage(request.session, image, None, time.perf_counter()))

  def _use_model(self, predictor: Predictor) -> Response:
    recognizer = Recognizer(predictor, self._smoothing, self._detector)
    recognizer.prepare()
    self._recognizer = recognizer
    return ModelReady(_describe_model(predictor), predictor.model.class_names)


def _describe_model(predictor: Predictor) -> str:
  origin, caution = predictor.model.origin, predictor.model.caution
  text = f"Ready: {origin.get('config') or 'a network'}"
  if (accuracy := origin.get("accuracy")) is not None:
    text += f", {100 * accuracy:.1f} % on the test images of {origin.get('dataset')}"
  return f"{text}." + (f" Careful: {caution}." if caution else "")
