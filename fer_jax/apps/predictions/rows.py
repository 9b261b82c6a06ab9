"""The rows that a prediction is written as: CSV or JSON lines, one for each face, and one where there is none."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TextIO

import numpy as np

from fer_jax.errors import UserError
from fer_jax.faces.detection import Box

OK = "ok"
NO_FACE = "no face"
_PLACES = 6  # of a probability


class Row(NamedTuple):
  """One line of the output.

  Attributes:
    file: as it was named.
    status: "ok", "no face", or "error: " and the reason.
    frame: number of a video's frame, from 0; None for a picture.
    time: of the frame in seconds; None for a picture.
    face: number of the face in the picture, from 0, the largest first.
    track: of a video, the number of the person whom the face is taken for.
    box: of the face.
    probability: of each class, float [K].
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
  """How rows become text."""

  def begin(self) -> None:
    """Writes what comes before the first row."""

  def write(self, row: Row) -> None:
    """Writes a row."""


class CsvFormat:
  """Comma-separated values with a line of names; what a row lacks is empty."""

  def __init__(self, file: TextIO, class_names: Sequence[str]):
    self._writer, self._names = csv.writer(file, lineterminator="\n"), class_names

  def begin(self) -> None:
    """Writes the names of the columns."""
    place = ("x", "y", "width", "height", "score")
    self._writer.writerow(
      ("file", "frame", "time", "face", "track", *place, "label", *(f"p_{name}" for name in self._names), "status")
    )

  def write(self, row: Row) -> None:
    """Writes a line."""
    box = ("",) * 5 if row.box is None else (*(f"{side:.1f}" for side in row.box[:4]), f"{row.box.score:.4f}")
    answer: Sequence[str] = ("",) * (1 + len(self._names))
    if row.probability is not None:
      answer = (self._names[int(row.probability.argmax(-1))], *(f"{p:.{_PLACES}f}" for p in row.probability))
    time = "" if row.time is None else f"{row.time:.3f}"
    place = (_text(row.frame), time, _text(row.face), _text(row.track))
    self._writer.writerow((row.file, *place, *box, *answer, row.status))


class JsonLinesFormat:
  """A JSON object a line; what a row lacks is null."""

  def __init__(self, file: TextIO, class_names: Sequence[str]):
    self._file, self._names = file, class_names

  def begin(self) -> None:
    """Writes nothing."""

  def write(self, row: Row) -> None:
    """Writes a line."""
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
  """A file of rows that appears when the last one is written, or not at all.

  Args:
    path: ends in .csv or .jsonl.
    class_names: of the classes.

  Raises:
    UserError: the path ends otherwise, or cannot be written.
  """

  def __init__(self, path: Path, class_names: Sequence[str]):
    check_output(path)
    path = Path(os.path.realpath(path))  # a link stays one
    self._path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}")
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      # Names of files are bytes to the system: one that is no UTF-8 is written as the bytes that it has.
      self._file = self._part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
      raise _cannot_write(path, error) from None
    self._format = FORMATS[path.suffix.lower()](self._file, class_names)

  def __enter__(self) -> Self:
    self._format.begin()
    return self

  def write(self, row: Row) -> None:
    """Writes a row; raises UserError where there is no room."""
    try:
      self._format.write(row)
    except OSError as error:
      raise _cannot_write(self._path, error) from None

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    try:
      self._file.close()
      if kind is None:
        os.replace(self._part, self._path)
    except OSError as failure:
      if kind is None:
        raise _cannot_write(self._path, failure) from None
    finally:
      self._part.unlink(missing_ok=True)


def check_output(path: Path) -> None:
  """Raises UserError unless a path ends as one of FORMATS and is no folder."""
  if path.is_dir():
    raise UserError(f"--out={path}: is a folder; expected the name of a file")
  if path.suffix.lower() not in FORMATS:
    raise UserError(f"--out={path}: expected a name that ends in {' or '.join(FORMATS)}")


def _text(value: int | None) -> str:
  return "" if value is None else str(value)


def _cannot_write(path: Path, error: OSError) -> UserError:
  return UserError(f"--out={path}: cannot be written ({error.strerror or error}); free the place or choose another")
