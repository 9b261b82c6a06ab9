"""Videos that were written frame by frame, cameras that are not there, and files that are no video."""

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
  """Holds video.mp4 and video.avi, 64x48, each frame redder than the one before."""
  folder = tmp_path_factory.mktemp("video")
  for name, codec in (("video.mp4", "mp4v"), ("video.avi", "MJPG")):
    writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), RATE, (64, 48))
    for number in range(LENGTH):
      writer.write(np.full((48, 64, 3), (0, 0, 30 * number), np.uint8))
    writer.release()
  return folder


@pytest.mark.parametrize("name", ["video.mp4", "video.avi"])
def test_every_frame_comes_in_order_with_its_time_in_rgb(folder, name):
  with Video(folder / name) as opened:
    assert (opened.frames_per_second, opened.length) == (RATE, LENGTH)
    frames = list(opened)
  assert [frame.number for frame in frames] == list(range(LENGTH))
  np.testing.assert_allclose([frame.time for frame in frames], np.arange(LENGTH) / RATE, atol=1e-6)
  for number, frame in enumerate(frames):
    assert (frame.image.shape, frame.image.dtype) == ((48, 64, 3), np.uint8)
    np.testing.assert_allclose(frame.image.mean((0, 1)), [30 * number, 0, 0], atol=4)


def test_a_closed_video_ends(folder):
  with Video(str(folder / "video.mp4")) as opened:
    frames = iter(opened)
    next(frames)
  assert list(frames) == []


class FakeCapture:
  """Stands in for cv2.VideoCapture: what it says of itself, and three frames."""

  says: dict[int, float]
  moments: tuple[float, ...]

  def __init__(self, *source):
    self.frame, self.is_open = -1, True

  def isOpened(self):  # noqa: N802 - OpenCV's name.
    return self.is_open

  def release(self):
    self.is_open = False

  def set(self, key, value):
    return False

  def get(self, key):
    return self.moments[self.frame] if key == cv2.CAP_PROP_POS_MSEC else self.says[key]

  def read(self):
    self.frame += 1
    return (True, np.zeros((2, 3, 3), np.uint8)) if self.frame < len(self.moments) else (False, None)


@pytest.fixture
def says(monkeypatch):
  """Puts a capture that says this in OpenCV's place."""

  def put(rate: float, length: float, moments: tuple[float, ...]) -> None:
    monkeypatch.setattr(FakeCapture, "says", {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: length}, raising=False)
    monkeypatch.setattr(FakeCapture, "moments", moments, raising=False)
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)

  return put


@pytest.mark.parametrize(
  ("rate", "length", "moments", "expected"),
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
def test_times_rates_and_lengths_that_make_no_sense_are_replaced(folder, says, rate, length, moments, expected):
  says(rate, length, moments)
  with Video(folder / "video.mp4") as opened:
    assert (opened.frames_per_second, opened.length) == expected[:2]
    np.testing.assert_allclose([frame.time for frame in opened], expected[2])


def test_a_camera_has_no_length_and_says_when_it_is_lost(says):
  says(30.0, 99.0, (7e6, 8e6, 9e6))
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
  says(30.0, 99.0, ())
  with pytest.raises(UnreadableImage, match="^camera 0 returns no image; another program may be using it$"):
    Video(0)


def test_files_without_frames_say_why_and_print_nothing(folder, says, tmp_path, capfd):
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
  says(30.0, 0.0, ())
  with pytest.raises(UnreadableImage, match="^not a readable video: it has no frames$"):
    Video(folder / "video.mp4")


def test_a_video_cut_short_gives_the_frames_before(folder, tmp_path):
  whole = (folder / "video.avi").read_bytes()
  # Each frame is a JPEG; the sixth is where it ends.
  *_, cut = (match.start() for match, _ in zip(re.finditer(b"\xff\xd8\xff", whole), range(6), strict=False))
  (tmp_path / "cut.avi").write_bytes(whole[:cut])
  with Video(tmp_path / "cut.avi") as opened:
    assert 4 <= len(list(opened)) < 6
