"""Output of predictions as CSV or JSON lines: one row per face, and one for an image without faces."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TextIO

import numpy as np

from fer_jax.faces.detection import Box
from fer_jax.runtime.errors import UserError

OK = "ok"
NO_FACE = "no face"
_PLACES = 6  # decimals of a probability


class Row(NamedTuple):
  """One line of the output.

  Attributes:
    file: Path of the file as given.
    status: Status: "ok", "no face", or "error: " and the reason.
    frame: Index of the video frame, from 0; None for an image file.
    time: Time of the frame in seconds; None for an image file.
    face: Index of the face in the image, from 0, the largest first; None without a face.
    track: Number of the face's track through the video; None for an image file.
    box: Box of the face; None without a face.
    probability: Probability of each class, float array of shape [K]; None without a face.
  """

  file: str
  status: str = OK
  frame: int | None = None
  time: float | None = None
  face: int | None = None
  track: int | None = None
  box: Box | None = None
  probability: np.ndarray | None = None


class Format(Protocol):
  """Interface of an output format."""

  def begin(self) -> None:
    """Writes the header, if the format has one."""

  def write(self, row: Row) -> None:
    """Writes one row."""


class CsvFormat:
  """Comma-separated values with a header line; missing values are empty."""

  def __init__(self, file: TextIO, class_names: Sequence[str]):
    self._writer, self._names = csv.writer(file, lineterminator="\n"), class_names

  def begin(self) -> None:
    """Writes the header line."""
    place = ("x", "y", "width", "height", "score")
    self._writer.writerow(
      ("file", "frame", "time", "face", "track", *place, "label", *(f"p_{name}" for name in self._names), "status")
    )

  def write(self, row: Row) -> None:
    """Writes one line."""
    box = ("",) * 5 if row.box is None else (*(f"{side:.1f}" for side in row.box[:4]), f"{row.box.score:.4f}")
    answer: Sequence[str] = ("",) * (1 + len(self._names))
    if row.probability is not None:
      answer = (self._names[int(row.probability.argmax(-1))], *(f"{p:.{_PLACES}f}" for p in row.probability))
    time = "" if row.time is None else f"{row.time:.3f}"
    place = (_text(row.frame), time, _text(row.face), _text(row.track))
    self._writer.writerow((row.file, *place, *box, *answer, row.status))


class JsonLinesFormat:
  """One JSON object per line; missing values are null."""

  def __init__(self, file: TextIO, class_names: Sequence[str]):
    self._file, self._names = file, class_names

  def begin(self) -> None:
    """Writes nothing: the format has no header."""

  def write(self, row: Row) -> None:
    """Writes one line."""
    label, probability = None, None
    if row.probability is not None:
      label = self._names[int(row.probability.argmax(-1))]
      probability = dict(zip(self._names, (round(float(p), _PLACES) for p in row.probability), strict=True))
    content: dict[str, Any] = {
      "file": row.file,
      "frame": row.frame,
      "time": row.time if row.time is None else round(row.time, 3),
      "face": row.face,
      "track": row.track,
      "box": None if row.box is None else [round(side, 1) for side in row.box[:4]],
      "score": None if row.box is None else round(row.box.score, 4),
      "label": label,
      "probability": probability,
      "status": row.status,
    }
    self._file.write(json.dumps(content) + "\n")


FORMATS: dict[str, Callable[[TextIO, Sequence[str]], Format]] = {".csv": CsvFormat, ".jsonl": JsonLinesFormat}


class Output:
  """Output file of rows, written atomically: it appears at its path only after the last row.

  Args:
    path: Path of the file, with the suffix .csv or .jsonl.
    class_names: Names of the K classes.

  Raises:
    UserError: The path has another suffix or cannot be written.
  """

  def __init__(self, path: Path, class_names: Sequence[str]):
    check_output(path)
    path = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link
    self._path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}")
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      # File names are bytes and may not be valid UTF-8; surrogateescape writes such names byte for byte.
      self._file = self._part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
      raise _cannot_write(path, error) from None
    self._format = FORMATS[path.suffix.lower()](self._file, class_names)

  def __enter__(self) -> Self:
    self._format.begin()
    return self

  def write(self, row: Row) -> None:
    """Writes one row; raises UserError if the disk is full."""
    try:
      self._format.write(row)
    except OSError as error:
      raise _cannot_write(self._path, error) from None

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    try:
      self._file.close()
      # After an error the partial file is removed and an earlier output stays.
      if kind is None:
        os.replace(self._part, self._path)
    except OSError as failure:
      if kind is None:
        raise _cannot_write(self._path, failure) from None
    finally:
      self._part.unlink(missing_ok=True)


def check_output(path: Path) -> None:
  """Raises UserError unless a path has a suffix in FORMATS and is not a folder."""
  if path.is_dir():
    raise UserError(f"--out={path}: is a folder; expected the name of a file")
  if path.suffix.lower() not in FORMATS:
    raise UserError(f"--out={path}: expected a name that ends in {' or '.join(FORMATS)}")


def _text(value: int | None) -> str:
  return "" if value is None else str(value)


def _cannot_write(path: Path, error: OSError) -> UserError:
  return UserError(f"--out={path}: cannot be written ({error.strerror or error}); free disk space or choose another")
