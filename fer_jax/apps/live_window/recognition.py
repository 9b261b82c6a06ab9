"""The thread that finds the faces in the newest picture and says what they express."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_jax.apps.live_window.capture import Picture
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.errors import UserError
from fer_jax.faces import pictures
from fer_jax.faces.detection import Box, Detector, HaarDetector
from fer_jax.faces.pictures import UnreadablePicture
from fer_jax.faces.tracking import Tracker
from fer_jax.predictor import Predictor, stacked

# Programs are compiled for so many faces before the first picture comes; for more, when they are seen.
_PREPARED = (1, 2)


def live_detector() -> HaarDetector:
  """Returns the detector that keeps up with a camera: faces of a fifth of the picture's height, from the front."""
  return HaarDetector(smallest_face=0.18, longest_side=320, profiles=False)


@dataclass(frozen=True)
class Still:
  """An order: read a picture from a file and recognise it."""

  session: int
  path: Path


@dataclass(frozen=True)
class Run:
  """An order: from now on use what the run in this folder has learned."""

  workdir: Path


@dataclass(frozen=True)
class Recognized:
  """A picture and what was found in it. Let F be the faces, the largest first, and K the classes.

  Attributes:
    session: of the picture.
    image: uint8 [H, W] grey or [H, W, 3] RGB.
    boxes: F places.
    tracks: F numbers: a face has that of the same face in the pictures before.
    probability: of each class, float32 [F, K], smoothed over time.
    class_names: K names.
    captured: when the picture was read, on the clock of `time.perf_counter`.
    finished: when this was known.
  """

  session: int
  image: np.ndarray
  boxes: list[Box]
  tracks: list[int]
  probability: np.ndarray
  class_names: tuple[str, ...]
  captured: float
  finished: float

  @property
  def delay(self) -> float:
    """Seconds from the picture to what is known of it."""
    return self.finished - self.captured


@dataclass(frozen=True)
class Ready:
  """The network is loaded and compiled; the sentence says which it is, and these are its classes."""

  sentence: str
  class_names: tuple[str, ...]


@dataclass(frozen=True)
class Trouble:
  """An order could not be carried out; the sentence says why."""

  sentence: str


Order = Picture | Still | Run
Answer = Recognized | Ready | Trouble


class Recognizer:
  """Recognises one picture after another; what it remembers of the last ones are the tracks of their faces.

  Args:
    predictor: finds and classifies faces.
    smoothing: half-life in seconds of what a face's earlier pictures count; 0 takes each picture alone.
    detector: a faster one, for the pictures of a camera or video; None takes the predictor's own for them too.
  """

  def __init__(self, predictor: Predictor, smoothing: float, detector: Detector | None = None):
    self._predictor, self._smoothing = predictor, smoothing
    # Of a predictor that takes pictures whole, no detector has anything to find.
    replaces = detector is not None and predictor.detector is not None
    self._moving = Predictor(predictor.classifier, detector, predictor.views) if replaces else predictor
    self._session: int | None = None

  def prepare(self) -> None:
    """Compiles the network, so that the first picture does not wait for it."""
    shape = self._predictor.classifier.shape
    for faces in _PREPARED:
      self._predictor.probability(np.zeros((faces, *shape), np.uint8))

  def __call__(self, picture: Picture) -> Recognized:
    """Returns what is in a picture."""
    boxes = (self._predictor if picture.time is None else self._moving).find(picture.image)
    cut = [self._predictor.cut(picture.image, box) for box in boxes]
    probability = self._predictor.probability(stacked(cut, self._predictor.classifier.shape))
    tracks = list(range(len(boxes)))
    if picture.time is not None:
      if picture.session != self._session:
        self._session, self._tracker = picture.session, Tracker(self._smoothing)
      tracks = self._tracker.update(picture.time, boxes)
      for face, track in enumerate(tracks):
        probability[face] = self._tracker.smooth(track, picture.time, probability[face])
    return Recognized(
      session=picture.session,
      image=picture.image,
      boxes=boxes,
      tracks=tracks,
      probability=probability,
      class_names=self._predictor.classifier.class_names,
      captured=picture.captured,
      finished=time.perf_counter(),
    )


class Recognition:
  """Carries out orders in a thread of its own, from `start` to `stop`.

  Networks are compiled and applied there, and further runs are loaded there; the first predictor comes ready-made.

  Args:
    predictor: what is used until a Run is ordered.
    load: returns the predictor of a run; raises UserError.
    orders: what to do; it is closed by `stop`.
    answers: takes each Recognized, Ready and Trouble.
    smoothing: see `Recognizer`.
    detector: see `Recognizer`.
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
    """Begins: the network is compiled, then orders are carried out."""
    self._thread.start()

  def stop(self) -> None:
    """Closes the orders and asks the thread to end after the one at hand."""
    self._orders.close()

  def join(self, timeout: float | None = None) -> bool:
    """Waits for the thread, at most so many seconds, and returns whether it has ended."""
    self._thread.join(timeout)
    return not self._thread.is_alive()

  def _run(self) -> None:
    self._answer(lambda: self._use(self._first))
    while (order := self._orders.take(None)) is not None:
      self._answer(lambda order=order: self._carry_out(order))  # type: ignore[misc]

  def _answer(self, work: Callable[[], Answer | None]) -> None:
    """Answers with what the work returns, if anything, and whatever goes wrong, the thread lives on."""
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
    # A late picture of a source closed since: its answer could take the place of that to a newer order.
    if order.session < self._newest:
      return None
    self._newest = order.session
    if isinstance(order, Picture):
      return self._recognizer(order)
    try:
      image = pictures.read(order.path)
    except UnreadablePicture as error:
      return Trouble(f"{order.path.name} cannot be read ({error}): choose another picture.")
    return self._recognizer(Picture(order.session, image, None, time.perf_counter()))

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
