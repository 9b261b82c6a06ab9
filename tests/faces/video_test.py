"""Reading of videos and cameras, and error messages for missing cameras and invalid files."""

import re

import cv2
import numpy as np
import pytest

from fer_jax.data.images import UnreadableImage
from fer_jax.faces import video
from fer_jax.faces.video import Video

LENGTH, RATE = 8, 12.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Returns a folder with video.mp4 and video.avi, 64x48, whose red value grows from frame to frame."""
  folder = tmp_path_factory.mktemp("video")
  for name, codec in (("video.mp4", "mp4v"), ("video.avi", "MJPG")):
    writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), RATE, (64, 48))
    for number in range(LENGTH):
      writer.write(np.full((48, 64, 3), (0, 0, 30 * number), np.uint8))
    writer.release()
  return folder


@pytest.mark.parametrize("name", ["video.mp4", "video.avi"])
def test_yields_rgb_frames_in_order_with_their_times(folder, name):
  with Video(folder / name) as opened:
    assert (opened.frames_per_second, opened.length) == (RATE, LENGTH)
    frames = list(opened)
  assert [frame.number for frame in frames] == list(range(LENGTH))
  np.testing.assert_allclose([frame.time for frame in frames], np.arange(LENGTH) / RATE, atol=1e-6)
  for number, frame in enumerate(frames):
    assert (frame.image.shape, frame.image.dtype) == ((48, 64, 3), np.uint8)
    np.testing.assert_allclose(frame.image.mean((0, 1)), [30 * number, 0, 0], atol=4)


def test_closed_video_yields_no_frames(folder):
  with Video(str(folder / "video.mp4")) as opened:
    frames = iter(opened)
    next(frames)
  assert list(frames) == []


class FakeCapture:
  """Fake of cv2.VideoCapture with given properties and frame times."""

  properties: dict[int, float]
  times: tuple[float, ...]

  def __init__(self, *source):
    self.frame, self.is_open = -1, True

  def isOpened(self):  # noqa: N802 - OpenCV's name
    return self.is_open

  def release(self):
    self.is_open = False

  def set(self, key, value):
    return False

  def get(self, key):
    return self.times[self.frame] if key == cv2.CAP_PROP_POS_MSEC else self.properties[key]

  def read(self):
    self.frame += 1
    return (True, np.zeros((2, 3, 3), np.uint8)) if self.frame < len(self.times) else (False, None)


@pytest.fixture
def fake_capture(monkeypatch):
  """Returns a function that replaces OpenCV's capture by one with these properties."""

  def install(rate: float, length: float, times: tuple[float, ...]) -> None:
    properties = {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: length}
    monkeypatch.setattr(FakeCapture, "properties", properties, raising=False)
    monkeypatch.setattr(FakeCapture, "times", times, raising=False)
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)

  return install


@pytest.mark.parametrize(
  ("rate", "length", "times", "expected"),
  [
    (10.0, 3.0, (0.0, 40.0, 200.0), (10.0, 3, (0.0, 0.04, 0.2))),
    (10.0, -9e18, (0.0, 0.0, 0.0), (10.0, None, (0.0, 0.1, 0.2))),
    (10.0, 0.0, (-5.0, -5.0, float("nan")), (10.0, None, (0.0, 0.1, 0.2))),
    (10.0, 3.0, (0.0, 500.0, 100.0), (10.0, 3, (0.0, 0.5, 0.6))),
    (0.0, 3.0, (0.0, 0.0, 0.0), (30.0, 3, (0.0, 1 / 30, 2 / 30))),
    (90_000.0, 3.0, (0.0, 0.0, 0.0), (30.0, 3, (0.0, 1 / 30, 2 / 30))),
    (float("nan"), float("nan"), (0.0, 0.0, 0.0), (30.0, None, (0.0, 1 / 30, 2 / 30))),
  ],
)
def test_replaces_invalid_times_rates_and_lengths(folder, fake_capture, rate, length, times, expected):
  fake_capture(rate, length, times)
  with Video(folder / "video.mp4") as opened:
    assert (opened.frames_per_second, opened.length) == expected[:2]
    np.testing.assert_allclose([frame.time for frame in opened], expected[2])


def test_camera_has_no_length_and_raises_when_it_is_disconnected(fake_capture):
  fake_capture(30.0, 99.0, (7e6, 8e6, 9e6))
  opened, times = Video(0), []
  assert opened.length is None
  with pytest.raises(UnreadableImage, match="^the camera returns no more images; was it unplugged\\?$"):
    times += [frame.time for frame in opened]
  opened = Video(0)
  frames = iter(opened)
  times = [next(frames).time, next(frames).time, next(frames).time]
  assert 0 <= times[0] < times[1] < times[2] < 60
  opened.close()
  assert list(frames) == []
  fake_capture(30.0, 99.0, ())
  with pytest.raises(UnreadableImage, match="^camera 0 returns no image; another program may be using it$"):
    Video(0)


def test_invalid_files_and_cameras_raise_with_the_reason(folder, fake_capture, tmp_path, capfd):
  whole = (folder / "video.mp4").read_bytes()
  unknown = "not a readable video: unknown format, damaged or truncated"
  cases = {
    "cut.mp4": (whole[: len(whole) // 2], unknown),
    "text.mp4": (b"frame,time\n" * 99, unknown),
    "zeros.avi": (bytes(9999), unknown),
    "empty.mp4": (b"", "empty (0 bytes)"),
  }
  for name, (data, reason) in cases.items():
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableImage) as caught:
      Video(tmp_path / name)
    assert str(caught.value) == reason
  for name, reason in {"absent.mp4": "does not exist", "": "a folder"}.items():
    with pytest.raises(UnreadableImage) as caught:
      Video(tmp_path / name)
    assert str(caught.value) == reason
  for number in (-1, 97):
    with pytest.raises(UnreadableImage, match=f"^camera {number} does not exist or cannot be opened$"):
      Video(number)
  assert capfd.readouterr() == ("", "")
  fake_capture(30.0, 0.0, ())
  with pytest.raises(UnreadableImage, match="^not a readable video: it has no frames$"):
    Video(folder / "video.mp4")


def test_truncated_video_yields_the_frames_before_the_end(folder, tmp_path):
  whole = (folder / "video.avi").read_bytes()
  # Every frame is a JPEG; the file is cut before the sixth.
  *_, cut = (match.start() for match, _ in zip(re.finditer(b"\xff\xd8\xff", whole), range(6), strict=False))
  (tmp_path / "cut.avi").write_bytes(whole[:cut])
  with Video(tmp_path / "cut.avi") as opened:
    assert 4 <= len(list(opened)) < 6
