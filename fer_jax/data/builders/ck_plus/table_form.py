"""CK+ as `ckextended.csv`: columns emotion, pixels (48x48) and Usage; one image per sequence, no subjects."""

import functools
import hashlib
import pathlib

import cv2
import numpy as np

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus.selection import CONTEMPT, Selection
from fer_jax.data.builders.fer2013 import csv_form
from fer_jax.data.builders.photograph_builder import EXPRESSIONS
from fer_jax.data.builders.photographs import Photograph, ReaderResult
from fer_jax.runtime.errors import UserError

FILE = "ckextended.csv"
COUNTS = {"angry": 45, "disgust": 59, "fear": 25, "happy": 69, "sad": 28, "surprise": 83, "neutral": 593, CONTEMPT: 18}
_SIZE = 48
_CLASS_BY_CODE = {str(code): name for code, name in enumerate((*EXPRESSIONS, CONTEMPT))}


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the file, in `folder` or a few levels below it, or None if there is none."""
  folder_with_file = photographs.only_folder(
    folder, FILE, lambda path: any(file.name.lower() == FILE for file in photographs.files_in(path))
  )
  return folder_with_file and next(file for file in photographs.files_in(folder_with_file) if file.name.lower() == FILE)


def read(path: pathlib.Path, selection: Selection) -> ReaderResult:
  """Reads the rows of the selected classes.

  The column Usage, a random split over images, is ignored.

  Args:
    path: The file ckextended.csv.
    selection: Classes to take; its number of frames has no effect.

  Returns:
    One image per sequence. Images with identical pixels share a group.

  Raises:
    UserError: A row is invalid; the message contains the file and the row.
  """
  found = []
  for line, (emotion, pixels) in csv_form.read_columns(path, ("emotion", "pixels")):
    error = _row_error(emotion, pixels.split())
    if error:
      raise UserError(f"{path}, row {line}: {error}: download or copy the file again")
    label = _CLASS_BY_CODE[emotion]
    if label in selection.class_names:
      image = np.array(pixels.split(), np.uint8)
      # [48 * 48] -> [48, 48] -> PNG bytes
      data = cv2.imencode(".png", image.reshape(_SIZE, _SIZE))[1].tobytes()
      # The file has no subjects or sequences, so the pixels are the only evidence that two rows are related.
      group = hashlib.sha256(image.tobytes()).hexdigest()[:16]
      found.append(Photograph(f"{path.name}, row {line}", label, "", group, functools.partial(bytes, data)))
  warnings = [f"{path.name} does not identify the people in its images: subject-independent folds are not possible"]
  if selection.last_frames > 1:
    warnings.append(f"{path.name} has one frame per sequence, not the last {selection.last_frames}")
  origin = {"form": FILE, "path": str(path), "contents": "one image per sequence"}
  return ReaderResult(tuple(found), origin, "face", warnings=tuple(warnings))


def _row_error(emotion: str, words: list[str]) -> str:
  """Returns a description of the fault of a row; "" if it is valid."""
  if emotion not in _CLASS_BY_CODE:
    return f"the label (column emotion) is {emotion[:20]!r}, expected an integer from 0 to {len(_CLASS_BY_CODE) - 1}"
  if len(words) != _SIZE**2:
    return f"{len(words)} pixels, expected {_SIZE**2} ({_SIZE} x {_SIZE})"
  invalid = [word for word in words if not (word.isascii() and word.isdecimal()) or int(word) > 255]
  return f"a pixel is {invalid[0][:20]!r}, expected an integer from 0 to 255" if invalid else ""
