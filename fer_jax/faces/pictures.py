"""Reads pictures of every usual kind, so that training and prediction see the same pixels of the same file."""

import contextlib
import io
import os
import pathlib
import re
import stat
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
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MOST_PIXELS = 100_000_000
"""More than any camera's; 300 MB in colour."""

# By what the files begin with. The classes are used themselves: `Image.open` warns of large pictures, and refuses very
# large ones, before it says how large they are; and it asks programs outside for some kinds. A JPEG that holds several
# pictures (MPO) begins with the first as an ordinary one.
_KINDS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
  (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
  (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
  (re.compile(rb"GIF8[79]a"), GifImageFile),
  (re.compile(rb"BM"), BmpImageFile),
  (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
  (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
  (re.compile(rb"P[1-6]\s"), PpmImageFile),
)
_UNKNOWN = "not a readable picture: none of BMP, GIF, JPEG, PNG, PPM, TIFF and WebP"
_DAMAGED = "not a readable picture: damaged or cut short"
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_PILLOW = re.compile(r"PIL\.")


class UnreadablePicture(Exception):
  """A file or a stream of frames that holds no picture; the text is a short reason without the file's name."""


def read(path: str | os.PathLike[str], most_pixels: int = MOST_PIXELS) -> np.ndarray:
  """Reads a picture from a file; the rest as in `decode`."""
  try:
    place = pathlib.Path(path)
    # Before it is opened: to open a pipe that nobody writes to never ends.
    kind = place.stat().st_mode
    if not stat.S_ISREG(kind):
      if stat.S_ISDIR(kind):
        may = os.access(place, os.R_OK | os.X_OK)
        raise UnreadablePicture("a folder" if may else "a folder, and no permission to look into it")
      raise UnreadablePicture("no regular file")
    file = place.open("rb")
  except FileNotFoundError:
    raise UnreadablePicture("does not exist") from None
  except PermissionError:
    raise UnreadablePicture("no permission to read it") from None
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else None
    raise UnreadablePicture(f"cannot be opened: {reason or 'not a name of a file'}") from None
  with file:
    return _decode(file, most_pixels)


def decode(data: bytes, most_pixels: int = MOST_PIXELS) -> np.ndarray:
  """Decodes a picture: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, of several frames or pages the first.

  It is turned upright as its Exif orientation says. What is transparent shows white. Grey of 16 bits is scaled to 8, of
  colour of 16 bits the upper 8 are taken. Colour profiles are not applied. Threads may call it at the same time.

  Pillow's warnings about odd files are silenced for the process: how they are shown is the same for all threads.

  Args:
    data: a whole file.
    most_pixels: larger pictures are refused before they are decoded.

  Returns:
    uint8 [H, W] of a grey picture, [H, W, 3] RGB of one in colour.

  Raises:
    UnreadablePicture: if it is empty, no picture, too large, damaged or cut short, or if its pixels are floating-point
      numbers or integers of 32 bits, which do not say what is black and what is white.
  """
  return _decode(io.BytesIO(data), most_pixels)


def in_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Turns a picture, uint8 [H, W] grey or [H, W, 3] RGB, into grey [H, W] (channels 1) or RGB [H, W, 3] (3)."""
  if channels not in (1, 3):
    raise ValueError(f"channels={channels}; expected 1 (grey) or 3 (RGB)")
  if (image.ndim == 3) == (channels == 3):
    return image
  return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if channels == 3 else cv2.COLOR_RGB2GRAY)


def is_plain(data: bytes, channels: int) -> bool:
  """Says whether other programs, TensorFlow above all, see the same in a file as `decode` and `in_channels` do.

  So it is with BMP, JPEG and PNG that are upright, opaque, of 8 bits, and grey or, where channels is 3, RGB: others
  repeat a grey channel, and do not mix colours to grey.

  Raises:
    UnreadablePicture: if it is no picture.
  """
  image = _open(io.BytesIO(data))
  portable = isinstance(image, BmpImageFile | JpegImageFile | PngImageFile)
  fits = image.mode == "L" or (image.mode == "RGB" and channels == 3)
  eight_bits = not any(";16" in str(tile[3]) for tile in image.tile)
  return portable and fits and eight_bits and not image.has_transparency_data and _orientation(image) == 1


def _decode(file: BinaryIO, most_pixels: int) -> np.ndarray:
  image = _open(file)
  width, height = image.size
  if width * height > most_pixels:
    limit = f"{most_pixels / 1e6:g} million" if most_pixels >= 100_000 else str(most_pixels)
    raise UnreadablePicture(f"{width}x{height} pixels, above the limit of {limit}")
  try:
    image.load()
  except Exception:
    # Pillow raises a dozen kinds, down to IndexError, for bytes that are not as they should be.
    raise UnreadablePicture(_DAMAGED) from None
  return _upright(_pixels(image), _orientation(image))


def _open(file: BinaryIO) -> ImageFile.ImageFile:
  """Reads a picture's header."""
  if not any(filter_[3] == _PILLOW for filter_ in warnings.filters[:1]):
    warnings.filterwarnings("ignore", module=_PILLOW.pattern)
  start = file.read(16)
  if not start:
    raise UnreadablePicture("empty (0 bytes)")
  kind = next((kind for pattern, kind in _KINDS if pattern.match(start)), None)
  if kind is None:
    raise UnreadablePicture(_UNKNOWN)
  file.seek(0)
  try:
    return kind(file)
  except Image.DecompressionBombError:  # Of WebP alone, whose decoder is made with room for the whole picture.
    raise UnreadablePicture("too many pixels, above the limit of this kind") from None
  except Exception:
    raise UnreadablePicture(_DAMAGED) from None


def _orientation(image: Image.Image) -> int:
  """Returns the Exif orientation, 1 to 8; 1, upright, where it says none or none that makes sense."""
  with contextlib.suppress(Exception):  # Damage here spoils no pixels.
    orientation = image.getexif().get(ExifTag.Orientation)
    if isinstance(orientation, int) and 1 <= orientation <= 8:
      return orientation
  return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
  if orientation > 4:
    image = image.swapaxes(0, 1)
  if orientation in (2, 3, 6, 7):
    image = image[:, ::-1]
  if orientation in (3, 4, 7, 8):
    image = image[::-1]
  return np.ascontiguousarray(image)


def _pixels(image: ImageFile.ImageFile) -> np.ndarray:
  """Returns a decoded picture's pixels in 8 bits, grey or RGB."""
  if image.mode in _DEEP or (image.mode == "I" and image.format == "PPM"):
    return ((np.asarray(image).astype(np.int32) + 128) // 257).astype(np.uint8)
  if image.mode in ("F", "I"):
    numbers = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
    raise UnreadablePicture(f"its pixels are {numbers}: what is white is unknown")
  grey = image.mode in ("1", "L", "LA", "La")
  try:
    flat = _on_white(image.convert("RGBA")) if image.has_transparency_data else image
    wanted = "L" if grey else "RGB"
    return np.array(flat if flat.mode == wanted else flat.convert(wanted))
  except (ValueError, OSError):
    raise UnreadablePicture(f"its pixels are of a kind that is not read ({image.mode})") from None


def _on_white(image: Image.Image) -> Image.Image:
  """Lays a picture with alpha, RGBA, onto white."""
  return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
