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
from fer_jax.faces.detection import Box, Detector, HaarDetector
from fer_jax.faces.tracking import Tracker
from fer_jax.inference.predictor import Predictor, stacked
from fer_jax.runtime.errors import UserError

# Batch sizes compiled before the first image; larger batches are compiled when they first occur.
_PREPARED = (1, 2)


def live_detector() -> HaarDetector:
  """Returns a detector fast enough for a camera: frontal faces of at least 18 % of the image's shorter side."""
  return HaarDetector(smallest_face=0.18, longest_side=320, profiles=False)


@dataclass(frozen=True)
class Still:
  """Order to read an image file and recognise it.

  Attributes:
    session: Session number for the answer.
    path: Path of the image file.
  """

  session: int
  path: Path


@dataclass(frozen=True)
class Run:
  """Order to use the network of another run from now on.

  Attributes:
    workdir: Folder of the run.
  """

  workdir: Path


@dataclass(frozen=True)
class Recognized:
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
class Ready:
  """Answer that a network is loaded and compiled.

  Attributes:
    sentence: Description of the network for the user.
    class_names: Names of its K classes.
  """

  sentence: str
  class_names: tuple[str, ...]


@dataclass(frozen=True)
class Trouble:
  """Answer that an order failed.

  Attributes:
    sentence: Reason, as a sentence for the user.
  """

  sentence: str


Order = CapturedImage | Still | Run
Answer = Recognized | Ready | Trouble


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
    replaces = detector is not None and predictor.detector is not None
    self._moving = Predictor(predictor.classifier, detector, predictor.views) if replaces else predictor
    self._session: int | None = None

  def prepare(self) -> None:
    """Compiles the network in advance, so that the first image is not delayed."""
    shape = self._predictor.classifier.shape
    for faces in _PREPARED:
      self._predictor.probability(np.zeros((faces, *shape), np.uint8))

  def __call__(self, captured: CapturedImage) -> Recognized:
    """Detects, classifies and tracks the faces in an image."""
    boxes = (self._predictor if captured.time is None else self._moving).find(captured.image)
    cut = [self._predictor.cut(captured.image, box) for box in boxes]
    probability = self._predictor.probability(stacked(cut, self._predictor.classifier.shape))
    # Single images (time None) are not tracked or smoothed, and always use the predictor's own detector.
    tracks = list(range(len(boxes)))
    if captured.time is not None:
      if captured.session != self._session:
        self._session, self._tracker = captured.session, Tracker(self._smoothing)
      tracks = self._tracker.update(captured.time, boxes)
      for face, track in enumerate(tracks):
        probability[face] = self._tracker.smooth(track, captured.time, probability[face])
    return Recognized(
      session=captured.session,
      image=captured.image,
      boxes=boxes,
      tracks=tracks,
      probability=probability,
      class_names=self._predictor.classifier.class_names,
      captured_at=captured.captured_at,
      finished=time.perf_counter(),
    )


class Recognition:
  """Processes orders in a separate thread, from `start` to `stop`.

  The thread compiles and applies networks and loads further runs; only the first predictor is loaded by the caller.

  Args:
    predictor: Initial predictor, used until the first `Run` order.
    load: Function that returns the predictor of a run's folder, or raises UserError.
    orders: Mailbox of orders; closed by `stop`.
    answers: Function that is called with each `Recognized`, `Ready` and `Trouble`.
    smoothing: Half-life in seconds, see `Recognizer`.
    detector: Faster detector for cameras and videos, see `Recognizer`.
  """

  def __init__(
    self,
    predictor: Predictor,
    load: Callable[[Path], Predictor],
    orders: Mailbox[Order],
    answers: Callable[[Answer], None],
    smoothing: float,
    detector: Detector | None = None,
  ):
    self._load, self._orders, self._answers = load, orders, answers
    self._smoothing, self._detector = smoothing, detector
    self._first, self._newest = predictor, 0
    self._recognizer = Recognizer(predictor, smoothing, detector)
    self._thread = threading.Thread(target=self._run, name="recognition", daemon=True)

  def start(self) -> None:
    """Starts the thread, which compiles the network and then processes orders."""
    self._thread.start()

  def stop(self) -> None:
    """Closes the mailbox of orders; the thread ends after the current order."""
    self._orders.close()

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
    self._answer(lambda: self._use(self._first))
    while (order := self._orders.take(None)) is not None:
      self._answer(lambda order=order: self._carry_out(order))  # type: ignore[misc]

  def _answer(self, work: Callable[[], Answer | None]) -> None:
    """Sends the result of `work`, if any; exceptions become a `Trouble` answer, so the thread keeps running."""
    answer: Answer | None
    try:
      answer = work()
    except UserError as error:
      answer = Trouble(str(error))
    except Exception as error:
      logging.getLogger(__name__).exception("recognition failed")
      answer = Trouble(f"The recognition failed: {error}")
    if answer is not None:
      self._answers(answer)

  def _carry_out(self, order: Order) -> Answer | None:
    if isinstance(order, Run):
      return self._use(self._load(order.workdir))
    # Skip a late image of a closed source: its answer could replace that of a newer order in the mailbox.
    if order.session < self._newest:
      return None
    self._newest = order.session
    if isinstance(order, CapturedImage):
      return self._recognizer(order)
    try:
      image = images.read(order.path)
    except UnreadableImage as error:
      return Trouble(f"{order.path.name} cannot be read ({error}): choose another image.")
    return self._recognizer(CapturedImage(order.session, image, None, time.perf_counter()))

  def _use(self, predictor: Predictor) -> Answer:
    recognizer = Recognizer(predictor, self._smoothing, self._detector)
    recognizer.prepare()
    self._recognizer = recognizer
    return Ready(_introduction(predictor), predictor.classifier.class_names)


def _introduction(predictor: Predictor) -> str:
  origin = predictor.classifier.origin
  accuracy = origin.get("accuracy")
  of = f", {100 * accuracy:.1f} % on the test images of {origin.get('dataset')}" if accuracy is not None else ""
  caution = predictor.classifier.caution
  warning = f" Careful: {caution}." if caution else ""
  return f"Ready: {origin.get('config') or 'a network'}{of}.{warning}"
