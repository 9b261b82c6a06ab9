"""Annotated copies: sizes and times of videos, and what remains after an error."""

import av
import numpy as np
import pytest

from fer_jax.apps.predictions.gallery import Gallery
from fer_jax.faces.video import Video
from fer_jax.runtime.errors import UserError

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 63), (1, 40), (1, 1), (1080, 1920)])
def test_video_of_odd_size_is_padded(tmp_path, height, width):
  with Gallery(tmp_path) as gallery:
    gallery.add_frame("a", np.full((height, width, 3), 128, np.uint8), 0.0, 0.1)
  with Video(tmp_path / "a.mp4") as video:
    (frame,) = video
  assert frame.image.shape == (height + height % 2, width + width % 2, 3)
  assert np.abs(frame.image.astype(int) - 128).max() < 4


@pytest.mark.parametrize("times", [(0, 0.001, 0.002), (0, 0.5, 7.25), (1.5, 1.54, 1.58), (0, 1 / 239.867, 2 / 239.867)])
def test_frames_keep_their_times(tmp_path, times):
  with Gallery(tmp_path) as gallery:
    for time, end in zip(times, (*times[1:], times[-1] + 0.25), strict=True):
      gallery.add_frame("a", IMAGE, time, end - time)
  with av.open(str(tmp_path / "a.mp4")) as video:
    np.testing.assert_allclose([frame.time for frame in video.decode(video=0)], times, atol=1e-4)
    assert (video.start_time + video.duration) / av.time_base == pytest.approx(times[-1] + 0.25, abs=1e-4)


def test_frames_of_another_size_are_resized(tmp_path):
  with Gallery(tmp_path) as gallery:
    gallery.add_frame("a", IMAGE, 0.0, 0.1)
    gallery.add_frame("a", np.zeros((64, 48, 3), np.uint8), 0.1, 0.1)
  with Video(tmp_path / "a.mp4") as video:
    assert [frame.image.shape for frame in video] == [(32, 32, 3)] * 2


def test_incomplete_video_is_removed_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError), Gallery(tmp_path) as gallery:
    gallery.add_frame("a", IMAGE, 0.0, 0.1)
    raise ZeroDivisionError
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [1, 40])
def test_full_disk_raises_and_leaves_no_file(tmp_path, monkeypatch, frames):
  class FullDisk:
    """Temporary file on a disk without space."""

    def __init__(self, file):
      self._file = file

    def write(self, data):
      raise OSError(28, "No space left on device")

    def __getattr__(self, name):
      return getattr(self._file, name)

  open_file = type(tmp_path).open
  monkeypatch.setattr(type(tmp_path), "open", lambda path, *mode: FullDisk(open_file(path, *mode)))
  noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
  with pytest.raises(UserError, match="a.mp4: cannot be written .No space left on device.; free disk space"):  # noqa: SIM117
    with Gallery(tmp_path) as gallery:
      for number in range(frames):
        gallery.add_frame("a", np.roll(noise, number), number / 10, 0.1)
  assert not list(tmp_path.iterdir())
