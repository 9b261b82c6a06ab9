"""Frame rate and delay of live recognition: the threads of the live window, and the window itself."""

import contextlib
import functools
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, random_model
from fer_jax.apps.live_window.capture import Capture, CapturedImage, Source
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.recognition import (
  Recognition,
  RecognitionFailed,
  RecognizedImage,
  Request,
  Response,
)
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.faces.cascades import video_detector
from fer_jax.faces.video import Frame
from fer_jax.inference.predictor import Predictor
from fer_jax.runtime.errors import UserError

WIDTH, HEIGHT, SIDE = 640, 480, 200
RATE = 30.0  # frames per second of the simulated camera
SECONDS = 3.0  # duration of each of the two runs in a round
SMOOTHING = 0.5
_SCENE_FRAMES = 90  # distinct frames, shown in a loop


def live(config: str, rounds: int) -> Benchmark:
  """Runs capture and recognition on a drawn scene, at full speed and at the rate of a camera.

  Args:
    config: Config of the network, FILE.py:VARIANT; the parameters are random.
    rounds: Number of rounds, each of SECONDS seconds at full speed and SECONDS seconds at camera rate.

  Returns:
    One row for the config's network, one for detection alone and, if Qt is available, one for the network with the
    window. `frames_per_second` counts frames recognised at full speed; with the window, frames painted at RATE frames
    per second. `delay_p50_ms` and `delay_p95_ms` measure from capture to result (with the window: to painting) at RATE
    frames per second; `dropped` is the share of these frames that was replaced by newer ones, and `faces` the share
    of frames in which a face was found.
  """
  images = [scene(number) for number in range(_SCENE_FRAMES)]
  model = random_model(config)
  predictor = Predictor(model, video_detector())
  row = {
    "name": config,
    "image_size": model.shape[0],
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    **_measure_threads(predictor, images, rounds),
  }
  rows = [row, {"name": "detection alone", **_measure_detection(images, rounds)}]
  if has_window():
    rows.append({"name": "with the window", **_measure_window(predictor, images, rounds)})
  return Benchmark(config, rows)


def scene(number: int) -> np.ndarray:
  """Draws a camera frame, uint8 [HEIGHT, WIDTH, 3]: a moving face of SIDE pixels in front of a blurred background."""
  random = np.random.default_rng(0)
  background = random.integers(60, 180, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8)
  image = np.array(cv2.resize(background, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))
  image += random.integers(0, 12, image.shape, dtype=np.uint8)
  # The face moves along a Lissajous curve that closes after _SCENE_FRAMES frames.
  angle = 2 * np.pi * number / _SCENE_FRAMES
  x = round((WIDTH - SIDE) / 2 * (1 + 0.8 * np.sin(angle)))
  y = round((HEIGHT - SIDE) / 2 * (1 + 0.8 * np.cos(2 * angle)))
  image[y : y + SIDE, x : x + SIDE] = _portrait()[..., None]
  return image


@functools.cache
def _portrait() -> np.ndarray:
  return render_image(0, 3, "happy", 0, SIDE, yaw=0.0)


def _measure_threads(predictor: Predictor, images: Sequence[np.ndarray], rounds: int) -> Row:
  fast, paced = _Measurement(predictor), _Measurement(predictor)
  for _ in range(rounds):
    fast.run(lambda measurement: _frames_on_demand(images, measurement))
    paced.run(lambda measurement: _frames_at_camera_rate(images))
  delays = [1000 * found.delay for found in paced.found]
  return {
    "frames_per_second": len(fast.found) / fast.seconds,
    **_percentiles(delays),
    "dropped": paced.dropped / paced.captured,
    "faces": statistics.fmean(bool(found.boxes) for found in (*fast.found, *paced.found)),
    "frames": len(fast.found) + len(paced.found),
  }


class _DemandMailbox(Mailbox[Request]):
  """Mailbox that requests the next frame as soon as one is taken, so that one is always ready and none is dropped."""

  def __init__(self, demand: threading.Semaphore):
    super().__init__()
    self._demand = demand

  def take(self, timeout: float | None = 0.0) -> Request | None:
    request = super().take(timeout)
    if request is not None:
      self._demand.release()
    return request


class _Measurement:
  """Runs the threads of the live window and collects their results, over all rounds at one frame rate."""

  def __init__(self, predictor: Predictor):
    self._predictor = predictor
    self.found: list[RecognizedImage] = []
    self.seconds, self.captured, self.dropped = 0.0, 0, 0
    self.demand = threading.Semaphore(0)

  def run(self, frames: Callable[["_Measurement"], Iterator[Frame]]) -> None:
    """Captures and recognises until the source has no more frames; raises UserError if the recognition fails."""
    self.demand = threading.Semaphore(0)
    requests = _DemandMailbox(self.demand)
    ready, ended = threading.Event(), threading.Event()
    failures: list[RecognitionFailed] = []

    def respond(response: Response) -> None:
      if isinstance(response, RecognizedImage):
        self.found.append(response)
      if isinstance(response, RecognitionFailed):
        failures.append(response)
        ended.set()
      ready.set()

    def put(image: CapturedImage) -> None:
      self.captured += 1
      requests.put(image)

    def open_source(_: Source) -> contextlib.AbstractContextManager[Iterator[Frame]]:
      return contextlib.nullcontext(frames(self))

    recognition = Recognition(self._predictor, _load_nothing, requests, respond, SMOOTHING)
    recognition.start()
    ready.wait()  # compilation is not timed
    capture = Capture(0, 0, put, lambda _: ended.set(), open_source)
    start = time.perf_counter()
    capture.start()
    ended.wait()
    self.seconds += time.perf_counter() - start
    self.dropped += requests.dropped
    capture.stop()
    recognition.stop()
    self.demand.release()  # after a failure, the source would block on the next acquire
    capture.join()
    recognition.join()
    if failures:
      raise UserError(failures[0].text)


def _frames_on_demand(images: Sequence[np.ndarray], measurement: _Measurement) -> Iterator[Frame]:
  """Yields a frame whenever one was taken, so that the next one is always ready."""
  end = time.perf_counter() + SECONDS
  number = 0
  while (now := time.perf_counter()) < end:
    yield Frame(number, now, images[number % len(images)])
    number += 1
    measurement.demand.acquire()


def _frames_at_camera_rate(images: Sequence[np.ndarray]) -> Iterator[Frame]:
  """Yields RATE frames per second, as a camera does."""
  start = time.perf_counter()
  for number in range(max(1, round(SECONDS * RATE))):
    time.sleep(max(0.0, start + number / RATE - time.perf_counter()))
    yield Frame(number, number / RATE, images[number % len(images)])


def _measure_detection(images: Sequence[np.ndarray], rounds: int) -> Row:
  detector = video_detector()
  detector(images[0])
  times, faces = [], 0
  for _ in range(rounds):
    for image in images:
      start = time.perf_counter()
      faces += bool(detector(image))
      times.append(time.perf_counter() - start)
  return {
    "frames_per_second": 1 / statistics.mean(times),
    **_percentiles([1000 * seconds for seconds in times]),
    "faces": faces / len(times),
    "frames": len(times),
  }


def has_window() -> bool:
  """Returns whether the window can be opened, off-screen if there is no display; logs a warning if it cannot."""
  from fer_jax.apps.live import check_display

  if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
  try:
    check_display()
  except UserError as error:
    logging.getLogger(__name__).warning("the row with the window is skipped: %s", error)
    return False
  return True


def _measure_window(predictor: Predictor, images: Sequence[np.ndarray], rounds: int) -> Row:
  """Measures the real window at camera rate, from capture of each frame until Qt has painted it."""
  from PySide6.QtCore import QEvent, QEventLoop, QObject, QTimer

  from fer_jax.apps.live_window.layout import application
  from fer_jax.apps.live_window.window import LiveWindow

  painted: dict[float, tuple[float, bool]] = {}  # capture time -> (delay in ms, whether a face was found)

  class PaintFilter(QObject):
    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
      if event.type() == QEvent.Type.Paint and (found := window.view.found) is not None:
        # The event filter runs before the frame is painted; a timer of 0 ms runs after it.
        delay = lambda: 1000 * (time.perf_counter() - found.captured_at)  # noqa: E731
        QTimer.singleShot(0, lambda: painted.setdefault(found.captured_at, (delay(), bool(found.boxes))))
      return False

  def wait_until(condition: Callable[[], bool]) -> None:
    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if condition() else None)
    timer.start(20)
    loop.exec()

  def open_source(_: Source) -> contextlib.AbstractContextManager[Iterator[Frame]]:
    return contextlib.nullcontext(_frames_at_camera_rate(images))

  application()
  window = LiveWindow(predictor, _load_nothing, Path(), SMOOTHING, source=0, open_source=open_source, find_cameras=list)
  compiling = window.status.text()
  paint_filter = PaintFilter()
  window.view.installEventFilter(paint_filter)
  window.show()
  try:
    wait_until(lambda: window.status.text() != compiling)
    start = time.perf_counter()
    for _ in range(rounds):
      window.open_camera()
      wait_until(window.open_button.isEnabled)
    seconds = time.perf_counter() - start
  finally:
    window.close()
    window.deleteLater()
  if not painted:
    raise UserError(f"the window painted no frame: {window.status.text()}")
  delays, faces = zip(*painted.values(), strict=True)
  return {
    "frames_per_second": len(delays) / seconds,
    **_percentiles(delays),
    "dropped": 1 - len(delays) / (rounds * max(1, round(SECONDS * RATE))),
    "faces": statistics.fmean(faces),
    "frames": len(delays),
  }


def _percentiles(delays: Sequence[float]) -> Row:
  return {"delay_p50_ms": statistics.median(delays), "delay_p95_ms": float(np.percentile(delays, 95))}


def _load_nothing(workdir: Path) -> Predictor:
  raise UserError(f"{workdir}: the benchmark does not open runs")
