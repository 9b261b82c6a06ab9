"""How fast a camera's pictures are recognised, and how late: the live window's threads, without the window."""

import contextlib
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, random_classifier
from fer_jax.apps.live_window.capture import Capture, Ended, Picture, Source
from fer_jax.apps.live_window.mailbox import Mailbox
from fer_jax.apps.live_window.recognition import Answer, Order, Recognition, Recognized, Trouble, live_detector
from fer_jax.data.builders.synthetic_faces.pictures import picture
from fer_jax.errors import UserError
from fer_jax.faces.video import Frame
from fer_jax.predictor import Predictor

WIDTH, HEIGHT, SIDE = 640, 480, 200
RATE = 30.0  # pictures a second of a camera
SECONDS = 3.0  # of each of a round's two runs
SMOOTHING = 0.5
_SCENES = 90  # different pictures; they repeat


def live(config: str, rounds: int) -> Benchmark:
  """Runs capture and recognition on a drawn scene: as fast as it goes, and at a camera's pace.

  Args:
    config: FILE.py:VARIANT; its network is used with random parameters.
    rounds: of SECONDS seconds at either pace.

  Returns:
    a row for the config's network and one for detection alone. `frames_per_second` are those recognised at full speed;
    `delay_p50_ms` and `delay_p95_ms` are from the picture's capture to the result, at RATE pictures a second, of which
    the share `dropped` gave way to newer ones; `faces` is the share of pictures in which one was found.
  """
  pictures = [scene(number) for number in range(_SCENES)]
  classifier = random_classifier(config)
  row = {
    "name": config,
    "image_size": classifier.shape[0],
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(classifier.params)),
    **_measured(Predictor(classifier, live_detector()), pictures, rounds),
  }
  return Benchmark(config, [row, {"name": "detection alone", **_detection(pictures, rounds)}])


def scene(number: int) -> np.ndarray:
  """Draws a picture of a camera, uint8 [HEIGHT, WIDTH, 3]: a face of SIDE pixels that moves, before a blurred room."""
  random = np.random.default_rng(0)
  coarse = random.integers(60, 180, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8)
  image = np.array(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))
  image += random.integers(0, 12, image.shape, dtype=np.uint8)
  angle = 2 * np.pi * number / _SCENES
  x = round((WIDTH - SIDE) / 2 * (1 + 0.8 * np.sin(angle)))
  y = round((HEIGHT - SIDE) / 2 * (1 + 0.8 * np.cos(2 * angle)))
  image[y : y + SIDE, x : x + SIDE] = _portrait()[..., None]
  return image


@functools.cache
def _portrait() -> np.ndarray:
  return picture(0, 3, "happy", 0, SIDE, yaw=0.0)


def _measured(predictor: Predictor, pictures: Sequence[np.ndarray], rounds: int) -> Row:
  fast, paced = _Watch(predictor), _Watch(predictor)
  for _ in range(rounds):
    fast.run(lambda watch: _as_asked(pictures, watch))
    paced.run(lambda watch: _by_the_clock(pictures))
  delays = [1000 * found.delay for found in paced.found]
  return {
    "frames_per_second": len(fast.found) / fast.seconds,
    "delay_p50_ms": statistics.median(delays),
    "delay_p95_ms": float(np.percentile(delays, 95)),
    "dropped": paced.dropped / paced.captured,
    "faces": statistics.fmean(bool(found.boxes) for found in (*fast.found, *paced.found)),
    "frames": len(fast.found) + len(paced.found),
  }


class _Watch:
  """Runs the threads of the live window and notes what they answer, over all rounds at one pace."""

  def __init__(self, predictor: Predictor):
    self._predictor = predictor
    self.found: list[Recognized] = []
    self.seconds, self.captured, self.dropped = 0.0, 0, 0
    self.wanted = threading.Semaphore(0)

  def run(self, frames: Callable[["_Watch"], Iterator[Frame]]) -> None:
    """Captures and recognises until the frames end."""
    orders: Mailbox[Order] = Mailbox()
    ready, ended = threading.Event(), threading.Event()
    trouble: list[Trouble] = []

    def answered(answer: Answer) -> None:
      if isinstance(answer, Recognized):
        self.found.append(answer)
        self.wanted.release()
        return
      if isinstance(answer, Trouble):
        trouble.append(answer)
        ended.set()
      ready.set()

    def captured(picture: Picture) -> None:
      self.captured += 1
      orders.put(picture)

    def finished(_: Ended) -> None:
      ended.set()

    def opened(_: Source) -> contextlib.AbstractContextManager[Iterator[Frame]]:
      return contextlib.nullcontext(frames(self))

    self.wanted = threading.Semaphore(1)
    recognition = Recognition(self._predictor, _no_run, orders, answered, SMOOTHING)
    recognition.start()
    ready.wait()
    capture = Capture(0, 0, captured, finished, opened)
    began = time.perf_counter()
    capture.start()
    ended.wait()
    self.seconds += time.perf_counter() - began
    self.dropped += orders.dropped
    capture.stop()
    recognition.stop()
    capture.join()
    recognition.join()
    if trouble:
      raise UserError(trouble[0].sentence)


def _as_asked(pictures: Sequence[np.ndarray], watch: _Watch) -> Iterator[Frame]:
  """Yields a picture whenever one was recognised, and so has the next one lie ready all the time."""
  end = time.perf_counter() + SECONDS
  number = 0
  while (now := time.perf_counter()) < end:
    yield Frame(number, now, pictures[number % len(pictures)])
    number += 1
    watch.wanted.acquire()


def _by_the_clock(pictures: Sequence[np.ndarray]) -> Iterator[Frame]:
  """Yields RATE pictures a second, as a camera does."""
  began = time.perf_counter()
  for number in range(max(1, round(SECONDS * RATE))):
    time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
    yield Frame(number, number / RATE, pictures[number % len(pictures)])


def _detection(pictures: Sequence[np.ndarray], rounds: int) -> Row:
  detector = live_detector()
  detector(pictures[0])
  times, faces = [], 0
  for _ in range(rounds):
    for image in pictures:
      began = time.perf_counter()
      faces += bool(detector(image))
      times.append(time.perf_counter() - began)
  return {
    "frames_per_second": 1 / statistics.mean(times),
    "delay_p50_ms": 1000 * statistics.median(times),
    "delay_p95_ms": 1000 * float(np.percentile(times, 95)),
    "faces": faces / len(times),
    "frames": len(times),
  }


def _no_run(workdir: Path) -> Predictor:
  raise UserError(f"{workdir}: the benchmark opens no run")
