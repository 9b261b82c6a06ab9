"""Writes video files of many kinds for tests."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_SOUND_RATE = 48_000
_TIME_BASE = Fraction(1, 90_000)


def write_video(
  path: Path,
  codec: str,
  rate: Fraction,
  length: int = 0,
  *,
  images: Sequence[np.ndarray] = (),
  times: Sequence[float] = (),
  sound: float = 0.0,
  aspect: Fraction | None = None,
  cover: bool = False,
  container_options: Mapping[str, str] | None = None,
) -> Path:
  """Writes a video, by default of 64x48 pixels whose red value grows by 30 from frame to frame.

  Args:
    path: Path of the file, whose suffix selects the container.
    codec: FFmpeg's name of the encoder.
    rate: Frames per second.
    length: Number of frames, without `images` or `times`.
    images: Images of the frames, uint8 [H, W, 3] RGB of even size.
    times: Times of the frames in seconds; without them, they follow from the rate.
    sound: Seconds of a silent audio stream; 0 adds none.
    aspect: Width of a pixel over its height.
    cover: Whether the first frame is marked as a cover image.
    container_options: Options of FFmpeg's muxer.

  Returns:
    The path.
  """
  length = len(images) or len(times) or length
  images = images or [np.full((48, 64, 3), (30 * number, 0, 0), np.uint8) for number in range(length)]
  with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = images[0].shape[:2]
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    if times:
      stream.time_base = stream.codec_context.time_base = _TIME_BASE
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = aspect
    if cover:
      stream.disposition = av.stream.Disposition.attached_pic.value
    silence = container.add_stream("aac" if path.suffix != ".avi" else "mp3", rate=_SOUND_RATE) if sound else None
    packets = []
    for number, image in enumerate(images):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      if times:
        frame.pts, frame.time_base = round(times[number] / _TIME_BASE), _TIME_BASE
      packets += stream.encode(frame)
    packets += stream.encode()
    if silence is not None:
      size = 1152 if path.suffix == ".avi" else 1024
      for start in range(0, round(sound * _SOUND_RATE), size):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = _SOUND_RATE, start
        packets += silence.encode(frame)
      packets += silence.encode()
    for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
      container.mux(packet)
  return path
