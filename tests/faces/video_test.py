"""Reading of video files: frames and times of many containers, metadata, and faults of damaged files."""

import os
import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fer_jax.data.images import UnreadableImage
from fer_jax.faces.video import Video
from tests.faces.video_files import write_video

RATE = Fraction(25, 2)
LENGTH = 8
TIMES = np.arange(LENGTH) / float(RATE)


def read(path):
  """Returns the images, the times, the end and the fault of a video."""
  with Video(path) as video:
    frames = list(video)
    assert [frame.number for frame in frames] == list(range(len(frames)))
    return [frame.image for frame in frames], [frame.time for frame in frames], video.end, video.fault


CONTAINERS = [
  ("mp4", "libx264", {}),
  ("mp4", "libx264", {"movflags": "faststart"}),
  ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
  ("mov", "mpeg4", {}),
  ("3gp", "mpeg4", {}),
  ("mkv", "libx264", {}),
  ("webm", "libvpx", {}),
  ("webm", "libvpx-vp9", {}),
  ("avi", "mjpeg", {}),
  ("avi", "mpeg4", {}),
  ("ts", "libx264", {}),
  ("m2ts", "libx264", {}),
  ("flv", "flv1", {}),
  ("wmv", "wmv2", {}),
  ("mxf", "mpeg2video", {}),
  ("nut", "ffv1", {}),
]


@pytest.mark.parametrize(("suffix", "codec", "options"), CONTAINERS, ids=str)
def test_yields_the_frames_of_every_container_with_their_times(tmp_path, suffix, codec, options):
  # MXF has no rate of 12.5 frames per second.
  rate = Fraction(25) if suffix == "mxf" else RATE
  path = write_video(tmp_path / f"a.{suffix}", codec, rate, LENGTH, container_options=options)
  images, times, end, fault = read(path)
  np.testing.assert_allclose(times, np.arange(LENGTH) / float(rate), atol=1e-3)
  assert end == pytest.approx(LENGTH / float(rate), abs=2e-3)
  assert fault == ""
  for number, image in enumerate(images):
    assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
    np.testing.assert_allclose(image.mean((0, 1)), [30 * number, 0, 0], atol=8)
  with Video(path) as video:
    assert video.length is None or abs(video.length - LENGTH) <= 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_raw_streams_have_times_from_a_rate(tmp_path, codec):
  suffix = {"libx264": "h264", "mpeg4": "m4v", "mjpeg": "mjpeg"}[codec]
  _, times, _, fault = read(write_video(tmp_path / f"a.{suffix}", codec, Fraction(25), LENGTH))
  assert len(times) == LENGTH and fault == ""
  assert np.all(np.diff(times) > 0)


def test_uneven_times_are_those_of_the_file(tmp_path):
  times = [0, 0.04, 0.5, 2.0, 2.04]
  for suffix, codec in (("mkv", "libx264"), ("webm", "libvpx"), ("mp4", "libx264")):
    _, found, _, fault = read(write_video(tmp_path / f"a.{suffix}", codec, RATE, times=times))
    np.testing.assert_allclose(found, times, atol=2e-3)
    assert fault == ""


def test_a_late_start_is_kept(tmp_path):
  times = [1.5, 1.6, 1.7]
  path = write_video(tmp_path / "late.mkv", "libx264", RATE, times=times, sound=2.0)
  np.testing.assert_allclose(read(path)[1], times, atol=2e-3)


def test_times_of_a_broadcast_begin_at_zero(tmp_path):
  path = write_video(tmp_path / "a.ts", "libx264", RATE, times=[900 + n / 10 for n in range(4)])
  np.testing.assert_allclose(read(path)[1], [0, 0.1, 0.2, 0.3], atol=2e-3)


def test_long_sound_is_no_fault(tmp_path):
  images, _, _, fault = read(write_video(tmp_path / "a.mp4", "libx264", RATE, LENGTH, sound=6.0))
  assert (len(images), fault) == (LENGTH, "")


def test_a_file_without_a_duration_is_no_fault(tmp_path):
  path = write_video(tmp_path / "a.webm", "libvpx", RATE, LENGTH, container_options={"live": "1"})
  with Video(path) as video:
    assert video.length is None
    assert len(list(video)) == LENGTH
    assert video.fault == ""


def test_cover_image_is_one_frame(tmp_path):
  path = write_video(tmp_path / "music.mp4", "mjpeg", RATE, 1, sound=3.0, cover=True)
  with Video(path) as video:
    assert video.length == 1
    assert len(list(video)) == 1
    assert video.fault == ""


@pytest.mark.parametrize("rows", [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_frames_are_rotated_and_mirrored_as_the_metadata_states(tmp_path, rows, transposed):
  matrix = rows[1], rows[0], rows[3], rows[2]  # a, b, c, d
  matrix = matrix if transposed else rows
  image = np.zeros((48, 64, 3), np.uint8)
  image[:16, :32], image[32:, 32:, 0] = 255, 200  # no rotation or mirror image is equal to another
  path = write_video(tmp_path / "a.mp4", "libx264", RATE, images=[image] * 3)
  data = path.read_bytes()
  at = data.index(b"tkhd") + 4 + 40  # the display matrix, after version, times, duration, layer and volume
  a, b, c, d = (value << 16 for value in matrix)
  path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
  (found, *_), *_ = read(path)
  # The stored pixel (x, y) is shown at (a x + c y, b x + d y), up to an offset.
  y, x = np.mgrid[:48, :64]
  a, b, c, d = matrix
  shown_x, shown_y = a * x + c * y, b * x + d * y
  shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
  expected = np.zeros((shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
  expected[shown_y, shown_x] = image
  assert found.shape == expected.shape
  assert np.abs(found.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(("aspect", "width"), [("4/3", 85), ("1/2", 32), ("1/1", 64), ("100/1", 64)])
def test_pixels_are_made_square(tmp_path, aspect, width):
  path = write_video(tmp_path / "a.mkv", "libx264", RATE, 3, aspect=Fraction(aspect))
  assert read(path)[0][0].shape == (48, width, 3)


def test_name_does_not_have_to_be_utf8(tmp_path):
  path = write_video(tmp_path / "a.mkv", "libx264", RATE, 3)
  other = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mkv"))
  path.rename(other)
  assert len(read(other)[0]) == 3


def test_closed_video_yields_no_more_frames(tmp_path):
  with Video(str(write_video(tmp_path / "a.mp4", "libx264", RATE, LENGTH))) as video:
    frames = iter(video)
    next(frames)
  assert list(frames) == []
  assert video.fault == ""


@pytest.mark.parametrize(
  ("suffix", "codec"), [("mp4", "libx264"), ("mov", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mjpeg")]
)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("sound", [0.0, 5.0])
def test_truncated_video_yields_the_frames_before_the_end(tmp_path, suffix, codec, share, sound):
  if suffix == "webm" and sound:
    pytest.skip("no codec that both have")
  options = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
  images = [np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8) for n in range(60)]
  path = write_video(tmp_path / f"a.{suffix}", codec, RATE, images=images, container_options=options, sound=sound)
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  found, _, _, fault = read(path)
  assert 0.5 * share * 60 < len(found) <= 60
  assert re.fullmatch(r"ends after \d\.\d( of [45]\.\d)? seconds; it may be truncated", fault), fault


def test_counts_damaged_frames(tmp_path):
  path = write_video(tmp_path / "a.avi", "mjpeg", RATE, LENGTH)
  data = bytearray(path.read_bytes())
  third, fourth = [match.start() for match in re.finditer(b"\xff\xd8\xff", data)][2:4]
  data[third : fourth - 8] = bytes(fourth - 8 - third)  # the next chunk has a header of 8 bytes
  path.write_bytes(data)
  images, _, _, fault = read(path)
  assert len(images) == LENGTH - 1
  assert fault == f"1 of {LENGTH} frames cannot be decoded; the file is damaged"


def test_unreadable_files_raise_with_the_reason(tmp_path, capfd):
  whole = write_video(tmp_path / "a.mp4", "libx264", RATE, LENGTH).read_bytes()
  unknown = "not a readable video: unknown format, damaged or truncated"
  cases = {
    "cut.mp4": (whole[: len(whole) // 2], unknown),
    "text.mp4": (b"frame,time\n" * 99, unknown),
    "zeros.avi": (bytes(9999), unknown),
    "empty.mp4": (b"", "empty (0 bytes)"),
    "list.ts": (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", unknown),
    "list.mp4": (b"ffconcat version 1.0\nfile a.mp4\n", unknown),
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
  with av.open(str(tmp_path / "sound.m4a"), "w") as container:
    sound = container.add_stream("aac", rate=48_000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 48_000
    container.mux(sound.encode(frame))
    container.mux(sound.encode())
  with pytest.raises(UnreadableImage, match="^not a readable video: it has no images, only sound or text$"):
    Video(tmp_path / "sound.m4a")
  assert capfd.readouterr() == ("", "")
