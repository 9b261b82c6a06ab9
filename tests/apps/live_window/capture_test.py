"""Tests capture from fake sources with a fake clock."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from fer_jax.apps.live_window import capture as module
from fer_jax.apps.live_window.capture import Capture, CapturedImage, Clock, SourceEnded, source_name
from fer_jax.data.images import UnreadableImage
from fer_jax.faces.video import Frame

IMAGE = np.zeros((4, 4, 3), np.uint8)


class FakeClock(Clock):
  """Clock that advances only when frames are read or `wait` is called."""

  def __init__(self):
    self.time, self.waits = 100.0, []

  def now(self):
    return self.time

  def wait(self, stopped, seconds):
    self.waits.append(seconds)
    self.time += seconds


def frames_of(clock, *, times, reading=(), error=None):
  for number, time in enumerate(times):
    clock.time += reading[number] if reading else 0.0
    yield Frame(number, time, IMAGE)
  if error:
    raise UnreadableImage(error)


def capture_all(source, clock=None, open_source=None, **frames):
  """Returns all messages of a capture, which runs until its source ends."""
  clock = clock or FakeClock()
  messages: list[CapturedImage | SourceEnded] = []
  opened = open_source or (lambda _: contextlib.nullcontext(frames_of(clock, **frames)))
  capture = Capture(source, 3, messages.append, messages.append, opened, clock)
  capture.start()
  assert capture.join(10)
  return messages


def test_video_plays_at_its_speed_and_late_frames_do_not_wait():
  clock = FakeClock()
  *images, ended = capture_all(Path("dir/talk.mp4"), clock, times=(5.0, 5.5, 6.0, 6.5), reading=(0.0, 0.125, 0.75, 0.0))
  # Frames are due 0.5 s apart. The third is 0.25 s late and shown at once; the fourth is on time again.
  assert [each.captured_at for each in images] == [100.0, 100.5, 101.25, 101.5]
  assert clock.waits == [0.375, 0.25]
  assert [each.time for each in images] == [5.0, 5.5, 6.0, 6.5]
  assert ended == SourceEnded(3, "talk.mp4 has ended; the last image stays.", expected=True)


def test_camera_frames_do_not_wait():
  clock = FakeClock()
  *images, _ = capture_all(0, clock, times=(0.0, 1.0), reading=(0.5, 0.5))
  assert clock.waits == []
  assert [each.captured_at for each in images] == [100.5, 101.0]


@pytest.mark.parametrize(
  ("source", "times", "error", "text"),
  [
    (1, (0.0,), None, "Camera 1 was lost; the last image stays."),
    (1, (0.0,), "unplugged", "Camera 1 was lost (unplugged); the last image stays."),
    (
      2,
      (),
      "no device",
      "Camera 2 cannot be opened (no device): check that it is connected and not used by another program.",
    ),
    (Path("a.txt"), (), "not a video", "a.txt cannot be opened (not a video): choose another file."),
    (Path("a.mp4"), (0.0,), "damaged", "a.mp4 was lost (damaged); the last image stays."),
  ],
)
def test_unexpected_end_is_reported(source, times, error, text):
  *images, ended = capture_all(source, times=times, error=error)
  assert len(images) == len(times)
  assert ended == SourceEnded(3, text, expected=False)


def test_source_that_does_not_open_is_reported():
  def fail(source):
    raise UnreadableImage("busy")

  assert capture_all(0, open_source=fail)[0].text.startswith("Camera 0 cannot be opened (busy):")


def test_other_exceptions_are_reported():
  def fail(source):
    raise ValueError("of another kind")

  assert capture_all(0, open_source=fail)[0].text.startswith("Camera 0 cannot be opened (of another kind):")


def test_stop_interrupts_waiting_without_a_message():
  first, released = threading.Event(), threading.Event()
  messages = []

  @contextlib.contextmanager
  def opened(source):
    yield frames_of(FakeClock(), times=(0.0, 3600.0))
    released.set()

  def put(image):
    messages.append(image)
    first.set()

  capture = Capture(Path("long.mp4"), 0, put, messages.append, opened)
  capture.start()
  assert first.wait(10)
  capture.stop()
  assert capture.join(10)
  assert released.is_set()
  assert [type(each) for each in messages] == [CapturedImage]


def test_camera_is_opened_again_after_it_was_closed():
  events, reading = [], threading.Event()
  resume = threading.Event()

  @contextlib.contextmanager
  def opened(source):
    events.append("opened")

    def frames():
      yield Frame(0, 0.0, IMAGE)
      reading.set()
      resume.wait(10)

    yield frames()
    events.append("closed")

  first, second = (Capture(0, session, lambda _: None, lambda _: None, opened) for session in (0, 1))
  first.start()
  assert reading.wait(10)
  first.stop()
  second.start(first)
  resume.set()
  assert second.join(10)
  assert events == ["opened", "closed"] * 2


def test_stop_before_start_does_not_open_the_source():
  opened = []
  capture = Capture(0, 0, opened.append, opened.append, opened.append)
  capture.stop()
  capture.start()
  assert capture.join(10)
  assert opened == []


def test_cameras_lists_those_that_open(monkeypatch):
  released = []

  class FakeDevice:
    def __init__(self, index):
      self.index = index

    def isOpened(self):  # noqa: N802
      return self.index == 2

    def release(self):
      released.append(self.index)

  monkeypatch.setattr(module.cv2, "VideoCapture", FakeDevice)
  monkeypatch.setattr(module, "_camera_indices", lambda: [0, 2, 3])
  assert module.cameras() == [2]
  assert released == [0, 2, 3]
  assert source_name(2) == "Camera 2"
