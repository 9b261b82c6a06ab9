"""Reads the frames of a video file."""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from fer_jax.data.images import UnreadableImage
from fer_jax.faces.crop import resize

SUFFIXES = frozenset(
  (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".mxf", ".dv", ".h264", ".264", ".hevc", ".265"),
    *(".ivf", ".y4m", ".mjpeg", ".mjpg"),
  )
)
"""Suffixes of video files, in lower case."""

# FFmpeg's formats that are read as videos. Others are images, which `data.images` reads, or open further files or
# addresses (playlists).
_FORMATS = (
  "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,m4v,h264,hevc,vvc,obu,ivf,mjpeg,dv,mxf,gxf,rm,nut,nsv,"
  "wtv,yuv4mpegpipe,h261,h263,vc1,dirac,cavsvideo,swf,apng,gif"
)
_DEFAULT_RATE = 30.0  # frames per second, where a file states none
_MAX_RATE = 240.0  # frames per second; larger stated values are the units of time stamps
_MAX_ASPECT = 8.0  # largest ratio of the sides of a pixel that is not an error in the file
_MAX_MISSING = 0.5  # seconds by which a complete file may end before its stated end
_UNKNOWN = "not a readable video: unknown format, damaged or truncated"


class Frame(NamedTuple):
  """One frame of a video.

  Attributes:
    number: Number of the frame, from 0.
    time: Time in seconds, since the start of the file or since the camera was opened; strictly increasing.
    image: Image, uint8 [H, W, 3] RGB.
  """

  number: int
  time: float
  image: np.ndarray


class Video:
  """Iterates over the frames of a video file, once. A context manager, which closes the file.

  Frames are as a player shows them: rotated and mirrored according to the file's metadata, and resized to square
  pixels. Of several video streams, FFmpeg's best one is read; without one, a cover image is a video of one frame.
  Playlists, which name other files, are not read.

  Args:
    path: Path of the file; its name does not have to be valid UTF-8.

  Attributes:
    length: Estimated number of frames, for a progress bar; None if the file states neither a number nor a duration.
    end: Time in seconds at which the newest frame ends.
    fault: Reason why the file is not complete, known after the iteration: "" if it is, as far as the file tells.

  Raises:
    UnreadableImage: The file cannot be read, or it contains no frame.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.fault, self.end = "", 0.0
    self._damaged, self._is_last_packet_partial, self._last_time = 0, False, 0.0
    self._file = _open(pathlib.Path(path))
    self._open = True
    try:
      # A file object and not a name, which FFmpeg might interpret as an address.
      self._container = av.open(self._file, "r", container_options={"format_whitelist": _FORMATS})
      stream = self._container.streams.best("video")
    except (av.FFmpegError, OSError, ValueError):
      self.close()
      raise UnreadableImage(_UNKNOWN) from None
    if not isinstance(stream, av.VideoStream):
      self.close()
      raise UnreadableImage("not a readable video: it has no images, only sound or text")
    self._stream = stream
    self._stream.thread_type = "AUTO"
    self._is_cover = av.stream.Disposition.attached_pic in self._stream.disposition
    rates = [rate for rate in (self._stream.guessed_rate, self._stream.average_rate) if rate and 0 < rate <= _MAX_RATE]
    self._rate = float(rates[0]) if rates else _DEFAULT_RATE
    self.length = self._estimate_length()
    # The first frame is decoded here, so that an unreadable file raises an error at once.
    self._frames = self._decode()
    self._first = next(self._frames, None)
    if self._first is None:
      self.close()
      raise UnreadableImage("not a readable video: no frame can be decoded")

  def __enter__(self) -> "Video":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file, which also ends the iteration."""
    self._open = False
    if hasattr(self, "_container"):
      self._container.close()
    self._file.close()

  def __iter__(self) -> Iterator[Frame]:
    # In microseconds. A file may start later than at 0, as recordings of broadcasts do.
    start = max(0, self._container.start_time or 0) / av.time_base
    frame, number, previous = self._first, 0, -math.inf
    while frame is not None and self._open:
      time = math.nan if frame.time is None else max(0.0, frame.time - start)
      if not time > previous:  # no time stamp, or not an increasing one
        time = number / self._rate if previous < 0 else previous + 1 / self._rate
      lasting = frame.duration * float(frame.time_base) if frame.duration and frame.time_base else 1 / self._rate
      self.end = time + lasting
      yield Frame(number, time, self._image(frame))
      previous, number = time, number + 1
      frame = next(self._frames, None) if self._open else None
    if self._open:
      self.fault = self._find_fault(number)

  def _estimate_length(self) -> int | None:
    if self._is_cover:
      return 1
    duration = self._container.duration
    by_time = None if duration is None else max(1, round(duration / av.time_base * self._rate))
    stated = self._stream.frames or None
    # A file that was cut without encoding it again states the number of frames before the cut.
    return min(by_time, stated) if by_time and stated else by_time or stated

  def _decode(self) -> Iterator[av.VideoFrame]:
    """Yields the frames of the stream; reads the packets of all streams, since any of them may be the last."""
    decoded = False
    packets = self._container.demux(self._stream) if self._is_cover else self._container.demux()
    try:
      for packet in packets:
        if packet.size:
          self._is_last_packet_partial = packet.is_corrupt
          self._last_time = max(self._last_time, _end_of(packet))
        if packet.stream.index != self._stream.index:
          continue
        try:
          for frame in packet.decode():
            decoded = True
            yield frame  # type: ignore[misc]
        except av.FFmpegError:
          # Recordings of broadcasts start with frames that refer to earlier ones; these are not damaged.
          self._damaged += decoded
        if self._is_cover and decoded:
          return
    except (av.FFmpegError, OSError):
      self._is_last_packet_partial = True

  def _image(self, frame: av.VideoFrame) -> np.ndarray:
    """Returns the pixels of a frame as a player shows them, uint8 [H, W, 3] RGB."""
    image = frame.to_ndarray(format="rgb24")
    aspect = float(self._stream.sample_aspect_ratio or 1)
    if aspect != 1 and 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
      image = resize(image, image.shape[0], max(1, round(image.shape[1] * aspect)))
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    return image if matrix is None else _displayed(image, np.frombuffer(bytes(matrix), np.int32))

  def _find_fault(self, frames: int) -> str:
    duration = None if self._is_cover else self._container.duration
    stated = 0.0 if duration is None else (duration + (self._container.start_time or 0)) / av.time_base
    is_short = self._last_time < stated - max(_MAX_MISSING, 0.02 * stated)
    if is_short or self._is_last_packet_partial or _lacks_bytes(self._file):
      of = f" of {stated:.1f}" if is_short else ""
      return f"ends after {self.end:.1f}{of} seconds; it may be truncated"
    if self._damaged:
      return f"{self._damaged} of {frames + self._damaged} frames cannot be decoded; the file is damaged"
    return ""


def _open(path: pathlib.Path) -> BinaryIO:
  """Opens a file; raises UnreadableImage with the reason if that fails."""
  try:
    if not path.is_file():
      raise UnreadableImage("a folder" if path.is_dir() else "does not exist")
    if not path.stat().st_size:
      raise UnreadableImage("empty (0 bytes)")
    return path.open("rb")
  except PermissionError:
    raise UnreadableImage("no permission to read it") from None
  except (OSError, ValueError):
    raise UnreadableImage("cannot be opened") from None


def _lacks_bytes(file: BinaryIO) -> bool:
  """Returns whether an AVI, Matroska or WebM file is shorter than its header states; False for other files.

  AVI begins with an identifier and a size of four bytes. Matroska is a header and a segment, each an identifier of four
  bytes, a size and the content. Its sizes begin with as many zero bits as they have further bytes, then a one; ones in
  all other bits mean that the size is unknown.
  """
  length = os.fstat(file.fileno()).st_size
  file.seek(0)
  riff, size = file.read(4), int.from_bytes(file.read(4), "little")
  if riff == b"RIFF":
    return 8 + size > length
  file.seek(0)
  for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
    if file.read(4) != identifier or not (first := file.read(1)) or not first[0]:
      return False
    further = 8 - first[0].bit_length()
    size = int.from_bytes(first + file.read(further), "big") & ((1 << 7 * (further + 1)) - 1)
    if size == (1 << 7 * (further + 1)) - 1:
      return False
    end = file.seek(size, os.SEEK_CUR)
  return end > length


def _end_of(packet: av.Packet) -> float:
  """Returns the time in seconds at which a packet ends; -inf if it has no time stamp."""
  stamp = packet.dts if packet.pts is None else packet.pts
  if stamp is None or packet.time_base is None:
    return -math.inf
  return float((stamp + (packet.duration or 0)) * packet.time_base)


def _displayed(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Rotates and mirrors an image, [h, w, 3] -> [H, W, 3].

  Args:
    image: Image as stored.
    matrix: The nine numbers of the file's display matrix, row by row. Of (a, b, _, c, d, ...), the stored position
      (x, y) is shown at (a x + c y, b x + d y). Only multiples of 90 degrees are exact; others are rounded to them.
  """
  a, b, _, c, d = matrix[:5].astype(np.int64)
  if abs(b) > abs(a):
    image, a, d = image.swapaxes(0, 1), c, b
  if a < 0:
    image = image[:, ::-1]
  if d < 0:
    image = image[::-1]
  return np.ascontiguousarray(image)
