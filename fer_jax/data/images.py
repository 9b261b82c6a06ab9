"""Decodes image files of all common formats, so that training and prediction use the same pixels of the same file."""

import contextlib
import io
import os
import pathlib
import re
import stat
import struct
import warnings
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MAX_PIXELS = 100_000_000
"""Default maximum number of pixels of an image: more than any camera has; 300 MB in colour."""

SUFFIXES = frozenset(
  (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
)
"""Suffixes of image files, in lower case."""

# Pillow's image classes by the first bytes of a file. They are used directly, because `Image.open` warns about large
# images, rejects very large ones before their size can be read, and runs external programs for some formats. A JPEG
# file with several images (MPO) starts with an ordinary JPEG image.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
  (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
  (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
  (re.compile(rb"GIF8[79]a"), GifImageFile),
  (re.compile(rb"BM"), BmpImageFile),
  (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
  (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
  (re.compile(rb"P[1-6]\s"), PpmImageFile),
)
UNKNOWN_FORMAT = "not a readable image: none of BMP, GIF, JPEG, PNG, PPM, TIFF and WebP"
_DAMAGED = "not a readable image: damaged or truncated"
_NO_WHITE = "its pixels are {}, for which white is undefined"
_JPEG_END = b"\xff\xd9"
# Modes of Pillow for grey images of 16 bits.
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_PILLOW = re.compile(r"PIL\.")


class UnreadableImage(Exception):
  """Raised if a file or stream contains no readable image; the text is a short reason without the file name."""


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """Reads an image from a file; otherwise as `decode`.

  Args:
    path: Path of the file.
    max_pixels: Maximum number of pixels; larger images are rejected before they are decoded.

  Returns:
    Image, uint8 [H, W] if it is grey, [H, W, 3] RGB if it is in colour.

  Raises:
    UnreadableImage: If the file cannot be read or `decode` rejects its contents.
  """
  try:
    file_path = pathlib.Path(path)
    # Checked before opening: opening a pipe without a writer blocks forever.
    kind = file_path.stat().st_mode
    if not stat.S_ISREG(kind):
      if stat.S_ISDIR(kind):
        readable = os.access(file_path, os.R_OK | os.X_OK)
        raise UnreadableImage("a folder" if readable else "a folder without permission to read it")
      raise UnreadableImage("not a regular file")
    file = file_path.open("rb")
  except FileNotFoundError:
    raise UnreadableImage("does not exist") from None
  except PermissionError:
    raise UnreadableImage("no permission to read it") from None
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else None
    raise UnreadableImage(f"cannot be opened: {reason or 'not a name of a file'}") from None
  with file:
    return _decode(file, max_pixels)


def may_be_image(path: str | os.PathLike[str]) -> bool:
  """Returns whether a file begins like an image of a supported format, or cannot be read at all."""
  try:
    if not os.path.isfile(path):  # opening a pipe without a writer blocks forever
      return True
    with open(path, "rb") as file:
      start = file.read(16)
  except (OSError, ValueError):
    return True
  return not start or any(pattern.match(start) for pattern, _ in _FORMATS)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """Decodes an image: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP; the first one if there are several frames or pages.

  The image is rotated according to its Exif orientation. Transparent pixels become white. 16-bit grey is scaled to 8
  bits; of 16-bit colour, the upper 8 bits are used. Colour profiles are not applied. The function is thread-safe.

  Pillow's warnings about unusual files are silenced for the whole process, because warning filters are shared by all
  threads.

  Args:
    data: Contents of a file.
    max_pixels: Maximum number of pixels; larger images are rejected before they are decoded.

  Returns:
    Image, uint8 [H, W] if it is grey, [H, W, 3] RGB if it is in colour.

  Only the image data must be whole: damaged or very long metadata and a missing end marker are accepted.

  Raises:
    UnreadableImage: If the data is empty, not an image, too large, damaged or truncated, or if the pixels are
      floating-point numbers or 32-bit integers, which have no defined black and white.
  """
  return _decode(io.BytesIO(data), max_pixels)


def in_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Converts an image to grey or RGB.

  Args:
    image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
    channels: Number of channels of the result: 1 (grey) or 3 (RGB).

  Returns:
    Image, uint8 [H, W] for one channel, [H, W, 3] for three.

  Raises:
    ValueError: If `channels` is neither 1 nor 3.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels={channels}; expected 1 (grey) or 3 (RGB)")
  if (image.ndim == 3) == (channels == 3):
    return image
  return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if channels == 3 else cv2.COLOR_RGB2GRAY)


def is_plain(data: bytes, channels: int) -> bool:
  """Returns whether other decoders, in particular TensorFlow's, read the same pixels as `decode` and `in_channels`.

  This holds for BMP, JPEG and PNG files that are upright, opaque and of 8 bits, and either grey or, for three channels,
  RGB. Other decoders also expand a grey channel to RGB; they do not convert colours to grey.

  Args:
    data: Contents of a file.
    channels: Number of channels of the decoded image: 1 (grey) or 3 (RGB).

  Raises:
    UnreadableImage: If the data is not an image.
  """
  image = _open(io.BytesIO(data))
  portable = isinstance(image, BmpImageFile | JpegImageFile | PngImageFile)
  matches_channels = image.mode == "L" or (image.mode == "RGB" and channels == 3)
  # Pillow also reports 16-bit colour as mode "RGB"; only its tiles contain the raw mode.
  eight_bits = not any(";16" in str(tile[3]) for tile in image.tile)
  return portable and matches_channels and eight_bits and not image.has_transparency_data and _orientation(image) == 1


def _decode(file: BinaryIO, max_pixels: int) -> np.ndarray:
  """Decodes an open file; see `decode`."""
  image = _open(file)
  width, height = image.size
  if width * height > max_pixels:
    limit = f"{max_pixels / 1e6:g} million" if max_pixels >= 100_000 else str(max_pixels)
    raise UnreadableImage(f"{width}x{height} pixels, above the limit of {limit}")
  try:
    image.load()
  except Exception:
    # Pillow raises a dozen different exceptions, including IndexError, for damaged data.
    complete = _with_end_marker(file) if isinstance(image, JpegImageFile) else None
    if complete is None:
      raise UnreadableImage(_DAMAGED) from None
    image = complete
  return _upright(_pixels(image), _orientation(image))


def _open(file: BinaryIO) -> ImageFile.ImageFile:
  """Reads the header of an image."""
  # Only if it is not the first filter already: each change invalidates Python's registry of warnings.
  if not any(filter_[3] == _PILLOW for filter_ in warnings.filters[:1]):
    warnings.filterwarnings("ignore", module=_PILLOW.pattern)
  start = file.read(16)
  if not start:
    raise UnreadableImage("empty (0 bytes)")
  kind = next((kind for pattern, kind in _FORMATS if pattern.match(start)), None)
  if kind is None:
    raise UnreadableImage(UNKNOWN_FORMAT)
  file.seek(0)
  try:
    return kind(_without_metadata(file.read()) if kind is PngImageFile else file)
  except Image.DecompressionBombError:  # WebP only: its decoder allocates the whole image
    raise UnreadableImage("too many pixels for this format") from None
  except Exception:
    reason = _unsupported_tiff(file) if kind is TiffImageFile else ""
    raise UnreadableImage(reason or _DAMAGED) from None


def _without_metadata(png: bytes) -> BinaryIO:
  """Returns a PNG file without the chunks that affect neither pixels nor orientation: Pillow limits their size."""
  chunks, start = [png[:8]], 8
  while start < len(png):
    (length,) = struct.unpack(">I", png[start : start + 4].rjust(4, b"\0"))
    kind, end = png[start + 4 : start + 8], start + 12 + length
    # A lower-case first letter marks a chunk without which an image can be decoded.
    if not kind[:1].islower() or kind in (b"tRNS", b"eXIf"):
      chunks.append(png[start:end])
    start = end
  return io.BytesIO(b"".join(chunks))


def _with_end_marker(file: BinaryIO) -> JpegImageFile | None:
  """Returns a JPEG image that only lacks the marker of its end, decoded; None if image data are missing, too."""
  file.seek(0)
  data = file.read().removesuffix(_JPEG_END[:1])
  try:
    # Without missing data, any bytes before the marker are ignored; otherwise, they are decoded as pixels.
    images = [JpegImageFile(io.BytesIO(data + padding + _JPEG_END)) for padding in (b"", b"\x5a" * 64)]
    pixels = [image.tobytes() for image in images]
  except Exception:
    return None
  return images[0] if pixels[0] == pixels[1] else None


def _unsupported_tiff(file: BinaryIO) -> str:
  """Returns the reason why Pillow does not support the pixels of a TIFF file; "" if it is not known."""
  try:
    file.seek(0)
    tags = ImageFileDirectory_v2(file.read(8))
    file.seek(tags.next)
    tags.load(file)
    formats, bits = tags[ExifTag.SampleFormat], tags[ExifTag.BitsPerSample]
  except Exception:
    return ""
  return (
    _NO_WHITE.format("floating-point numbers") if 3 in formats else f"its pixels of {max(bits)} bits are not supported"
  )


def _orientation(image: Image.Image) -> int:
  """Returns the Exif orientation, 1 to 8; 1 (upright) if it is absent or invalid."""
  with contextlib.suppress(Exception):  # damaged metadata does not affect the pixels
    orientation = image.getexif().get(ExifTag.Orientation)
    if isinstance(orientation, int) and 1 <= orientation <= 8:
      return orientation
  return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
  """Applies an Exif orientation: a transposition (5 to 8), then flips. [h, w, ...] -> [H, W, ...]"""
  if orientation > 4:
    image = image.swapaxes(0, 1)
  if orientation in (2, 3, 6, 7):
    image = image[:, ::-1]
  if orientation in (3, 4, 7, 8):
    image = image[::-1]
  return np.ascontiguousarray(image)


def _pixels(image: ImageFile.ImageFile) -> np.ndarray:
  """Returns the pixels of a decoded image, uint8, [H, W] grey or [H, W, 3] RGB."""
  if image.mode in _MODES_16_BIT or (image.mode == "I" and image.format == "PPM"):
    # 0..65535 -> 0..255, rounded: 65535 = 255 * 257.
    return ((np.asarray(image).astype(np.int32) + 128) // 257).astype(np.uint8)
  if image.mode in ("F", "I"):
    numbers = "floating-point numbers" if image.mode == "F" else "32-bit integers"
    raise UnreadableImage(_NO_WHITE.format(numbers))
  grey = image.mode in ("1", "L", "LA", "La")
  try:
    opaque = _on_white(image.convert("RGBA")) if image.has_transparency_data else image
    mode = "L" if grey else "RGB"
    return np.array(opaque if opaque.mode == mode else opaque.convert(mode))
  except (ValueError, OSError):
    raise UnreadableImage(f"its pixel format is not supported ({image.mode})") from None


def _on_white(image: Image.Image) -> Image.Image:
  """Composites an RGBA image onto a white background."""
  return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
