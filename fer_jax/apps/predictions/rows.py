"""Output of predictions as CSV or JSON lines: one row per face, and one for an image without faces."""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from tqdm import tqdm

from fer_jax.faces.detection import Box
from fer_jax.runtime.errors import UserError

OK = "ok"
NO_FACE = "no face"
_DECIMALS = 6  # decimals of a probability


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


# Function that writes one row to a file.
WriteRow = Callable[[Row], Any]


def _csv(file: TextIO, class_names: Sequence[str]) -> WriteRow:
  """Starts a CSV file with a header line; missing values are empty."""
  writer = csv.writer(file, lineterminator="\n")
  columns = ["file", "frame", "time", "face", "track", "x", "y", "width", "height", "score", "label"]
  writer.writerow([*columns, *(f"p_{name}" for name in class_names), "status"])

  def write(row: Row) -> None:
    time = None if row.time is None else f"{row.time:.3f}"  # None is written as an empty cell
    box = [None] * 5 if row.box is None else [*(f"{side:.1f}" for side in row.box[:4]), f"{row.box.score:.4f}"]
    prediction: list[str | None] = [None] * (1 + len(class_names))
    if row.probability is not None:
      label = class_names[int(row.probability.argmax(-1))]
      prediction = [label, *(f"{p:.{_DECIMALS}f}" for p in row.probability)]
    writer.writerow([row.file, row.frame, time, row.face, row.track, *box, *prediction, row.status])

  return write


def _json_lines(file: TextIO, class_names: Sequence[str]) -> WriteRow:
  """Starts a file with one JSON object per line; missing values are null."""

  def write(row: Row) -> None:
    label, probability = None, None
    if row.probability is not None:
      label = class_names[int(row.probability.argmax(-1))]
      probability = dict(zip(class_names, (round(float(p), _DECIMALS) for p in row.probability), strict=True))
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
    file.write(json.dumps(content) + "\n")

  return write


def _terminal_line(row: Row, class_names: Sequence[str]) -> str:
  """Returns a row as a line for the terminal, such as "party.jpg, face 0: happy 93 %"."""
  place = [row.file]
  place += [] if row.time is None else [f"{row.time:.2f} s"]
  place += [] if row.face is None else [f"face {row.face}"]
  if row.probability is None:
    return f"{', '.join(place)}: {row.status}"
  return f"{', '.join(place)}: {class_names[int(row.probability.argmax(-1))]} {100 * row.probability.max():.0f} %"


FORMATS: dict[str, Callable[[TextIO, Sequence[str]], WriteRow]] = {".csv": _csv, ".jsonl": _json_lines}


@contextlib.contextmanager
def open_rows(path: Path | None, class_names: Sequence[str]) -> Iterator[WriteRow]:
  """Yields the function that writes a row; the file appears at its path only after the last row.

  Args:
    path: Path of the file, with the suffix .csv or .jsonl; None prints the rows to the terminal.
    class_names: Names of the K classes.

  Raises:
    UserError: The path has another suffix or cannot be written.
  """
  if path is None:
    # tqdm prints above its progress bar, which is drawn on a terminal only.
    show = tqdm.write if sys.stderr.isatty() else print
    yield lambda row: show(_terminal_line(row, class_names))
    return
  check_output(path)
  path = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link
  partial = path.with_name(f".{path.name}.{os.getpid()}")
  with _writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names are bytes and may not be valid UTF-8; surrogateescape writes such names byte for byte.
    file = partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
  # After an error the partial file is removed and an earlier output stays.
  try:
    write_row = FORMATS[path.suffix.lower()](file, class_names)

    def write(row: Row) -> None:
      with _writing(path):
        write_row(row)

    yield write
    with _writing(path):
      file.close()
      os.replace(partial, path)
  finally:
    with contextlib.suppress(OSError):  # the disk may be full
      file.close()
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
  """Converts an OSError to a UserError about the output file."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"--out={path}: cannot be written ({reason}); free disk space or choose another") from None


def check_output(path: Path) -> None:
  """Raises UserError unless a path has a suffix in FORMATS and is not a folder."""
  if path.is_dir():
    raise UserError(f"--out={path}: is a folder; expected the name of a file")
  if path.suffix.lower() not in FORMATS:
    raise UserError(f"--out={path}: expected a name that ends in {' or '.join(FORMATS)}")
