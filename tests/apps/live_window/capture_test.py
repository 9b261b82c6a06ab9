"""Capture from made-up sources, by a clock that a test moves."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from fer_jax.apps.live_window import capture as module
from fer_jax.apps.live_window.capture import Capture, CapturedImage, Clock, Ended, name_of
from fer_jax.data.images import UnreadableImage
from fer_jax.faces.video import Frame

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Scripted(Clock):
  """Reading a frame takes `reading` seconds; waiting takes what it says."""

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


def captured(source, clock=None, open_source=None, **frames):
  """Everything that is handed on, until the source ends."""
  clock = clock or Scripted()
  handed: list[CapturedImage | Ended] = []
  opened = open_source or (lambda _: contextlib.nullcontext(frames_of(clock, **frames)))
  capture = Capture(source, 3, handed.append, handed.append, opened, clock)
  capture.start()
  assert capture.join(10)
  return handed


def test_a_file_is_read_at_its_own_speed_and_a_late_picture_does_not_wait():
  clock = Scripted()
  *images, ended = captured(Path("dir/talk.mp4"), clock, times=(5.0, 5.5, 6.0, 6.5), reading=(0.0, 0.125, 0.75, 0.0))
  # Due 0.5 s apart. The third is read 0.25 s too late and is shown at once, the fourth at its own time again.
  assert [each.captured_at for each in images] == [100.0, 100.5, 101.25, 101.5]
  assert clock.waits == [0.375, 0.25]
  assert [each.time for each in images] == [5.0, 5.5, 6.0, 6.5]
  assert ended == Ended(3, "talk.mp4 has ended; the last image stays.", expected=True)


def test_a_camera_sets_its_own_pace():
  clock = Scripted()
  *images, _ = captured(0, clock, times=(0.0, 1.0), reading=(0.5, 0.5))
  assert clock.waits == []
  assert [each.captured_at for each in images] == [100.5, 101.0]


@pytest.mark.parametrize(
  ("source", "times", "error", "sentence"),
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
def test_an_end_that_nobody_asked_for_is_a_sentence(source, times, error, sentence):
  *images, ended = captured(source, times=times, error=error)
  assert len(images) == len(times)
  assert ended == Ended(3, sentence, expected=False)


def test_a_source_that_does_not_open_is_a_sentence():
  def refuse(source):
    raise UnreadableImage("busy")

  assert captured(0, open_source=refuse)[0].sentence.startswith("Camera 0 cannot be opened (busy):")


def test_what_goes_wrong_in_the_source_does_not_go_unsaid():
  def break_down(source):
    raise ValueError("of another kind")

  assert captured(0, open_source=break_down)[0].sentence.startswith("Camera 0 cannot be opened (of another kind):")


def test_stop_ends_a_file_that_waits_and_says_nothing():
  first, released = threading.Event(), threading.Event()
  handed = []

  @contextlib.contextmanager
  def opened(source):
    yield frames_of(Scripted(), times=(0.0, 3600.0))
    released.set()

  def take(captured):
    handed.append(captured)
    first.set()

  capture = Capture(Path("long.mp4"), 0, take, handed.append, opened)
  capture.start()
  assert first.wait(10)
  capture.stop()
  assert capture.join(10)
  assert released.is_set()
  assert [type(each) for each in handed] == [CapturedImage]


def test_a_camera_is_opened_again_only_when_it_was_closed():
  events, reading = [], threading.Event()
  go_on = threading.Event()

  @contextlib.contextmanager
  def opened(source):
    events.append("opened")

    def frames():
      yield Frame(0, 0.0, IMAGE)
      reading.set()
      go_on.wait(10)

    yield frames()
    events.append("closed")

  first, second = (Capture(0, session, lambda _: None, lambda _: None, opened) for session in (0, 1))
  first.start()
  assert reading.wait(10)
  first.stop()
  second.start(first)
  go_on.set()
  assert second.join(10)
  assert events == ["opened", "closed"] * 2


def test_who_is_stopped_before_the_source_is_opened_does_not_open_it():
  opened = []
  capture = Capture(0, 0, opened.append, opened.append, opened.append)
  capture.stop()
  capture.start()
  assert capture.join(10)
  assert opened == []


def test_cameras_are_those_that_open(monkeypatch):
  released = []

  class Device:
    def __init__(self, index):
      self.index = index

    def isOpened(self):  # noqa: N802
      return self.index == 2

    def release(self):
      released.append(self.index)

  monkeypatch.setattr(module.cv2, "VideoCapture", Device)
  monkeypatch.setattr(module, "_candidates", lambda: [0, 2, 3])
  assert module.cameras() == [2]
  assert released == [0, 2, 3]
  assert name_of(2) == "Camera 2"
