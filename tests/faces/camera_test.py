"""Reading of cameras, and error messages for missing cameras."""

import cv2
import numpy as np
import pytest

from fer_jax.data.images import UnreadableImage
from fer_jax.faces import camera
from fer_jax.faces.camera import Camera


class FakeCapture:
  """Fake of cv2.VideoCapture that returns `length` images."""

  length = 3

  def __init__(self, number):
    self.frame, self.is_open = 0, True

  def isOpened(self):  # noqa: N802 - OpenCV's name
    return self.is_open

  def release(self):
    self.is_open = False

  def set(self, key, value):
    return False

  def read(self):
    self.frame += 1
    blue = np.full((2, 3, 3), (255, 0, 0), np.uint8)  # OpenCV's order is BGR
    return (True, blue) if self.is_open and self.frame <= self.length else (False, None)


@pytest.fixture
def fake_capture(monkeypatch):
  monkeypatch.setattr(camera.cv2, "VideoCapture", FakeCapture)


def test_yields_rgb_frames_with_their_times_and_raises_when_it_is_disconnected(fake_capture):
  frames = []
  with pytest.raises(UnreadableImage, match="^the camera returns no more images; was it unplugged\\?$"):
    frames += list_until_error(Camera(0), frames)
  assert [frame.number for frame in frames] == [0, 1, 2]
  assert 0 <= frames[0].time < frames[1].time < frames[2].time < 60
  np.testing.assert_array_equal(frames[0].image, np.full((2, 3, 3), (0, 0, 255)))


def list_until_error(source, frames):
  """Appends the frames of a source to a list, which keeps them if the source raises."""
  for frame in source:
    frames.append(frame)
  return []


def test_closed_camera_yields_no_more_frames(fake_capture):
  with Camera(0) as opened:
    frames = iter(opened)
    next(frames)
  assert list(frames) == []


def test_missing_and_busy_cameras_raise(fake_capture, monkeypatch, capfd):
  monkeypatch.setattr(FakeCapture, "length", 0)
  with pytest.raises(UnreadableImage, match="^camera 0 returns no image; another program may be using it$"):
    Camera(0)
  monkeypatch.setattr(camera.cv2, "VideoCapture", VIDEO_CAPTURE)
  for number in (-1, 97):
    with pytest.raises(UnreadableImage, match=f"^camera {number} does not exist or cannot be opened$"):
      Camera(number)
  assert capfd.readouterr() == ("", "")


VIDEO_CAPTURE = cv2.VideoCapture
