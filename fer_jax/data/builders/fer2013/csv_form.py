"""FER2013 as one CSV file: `fer2013.csv`, or `icml_face_data.csv` with the same columns in another order."""

import csv
import hashlib
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from tensorflow_datasets.core import utils as tfds_utils

from fer_jax.data.builders.fer2013.raw import CLASS_NAMES, SIZE, Raw
from fer_jax.runtime.errors import UserError

SPLIT_BY_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}

_OFFICIAL_MD5 = "f8428a1edbd21e88f42c73edd2a14f95"
_OFFICIAL_ROWS = {"Training": 28_709, "PublicTest": 3_589, "PrivateTest": 3_589}
_LABELS = {str(label): label for label in range(len(CLASS_NAMES))}
_PIXELS = SIZE * SIZE


def read(path: pathlib.Path) -> Raw:
  """Reads and checks a whole CSV file.

  Args:
    path: CSV file with the columns `emotion`, `pixels` and `Usage`, in any order.

  Returns:
    All rows of the file. If the contents differ from the official file, the result has a warning.

  Raises:
    UserError: A row is invalid (the message contains the file and the line number of the first such row), the file is
      empty, or one of the three splits has no rows.
  """
  if path.stat().st_size == 0:
    raise UserError(f"{path} is empty (0 bytes), expected a CSV file: download or copy it again")
  with path.open("rb") as file:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    md5 = hashlib.file_digest(file, "md5").hexdigest()
  # MD5 of the rows in the layout of fer2013.csv, so that icml_face_data.csv and other line ends also match.
  content = hashlib.md5(b"emotion,pixels,Usage\n")
  image, label, usage = [], [], []
  for fields, pixels in _rows(path):
    image.append(pixels)
    label.append(_LABELS[fields[0]])
    usage.append(fields[2])
    content.update((",".join(fields) + "\n").encode())
  rows = {name: usage.count(name) for name in SPLIT_BY_USAGE}
  _check_splits(path, rows)
  warning_lines = [] if content.hexdigest() == _OFFICIAL_MD5 else [_not_official(path, md5, rows)]
  return Raw(
    image=np.stack(image).reshape(-1, SIZE, SIZE),  # [N, 48 * 48] -> [N, 48, 48]
    label=np.array(label),
    split=np.array([SPLIT_BY_USAGE[name] for name in usage]),
    origin={"form": "csv", "path": str(path), "sha256": sha256, "md5": md5},
    warnings=tuple(warning_lines),
  )


def read_columns(path: pathlib.Path, names: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
  """Yields the line number and the stripped fields of the named columns, for every row after the header.

  Args:
    path: CSV file with a header.
    names: Names of the columns to return, in the order of the result.

  Raises:
    UserError: The header lacks a column, a row has the wrong number of fields, or the file is not CSV.
  """
  # Invalid UTF-8 is replaced here and then fails the check of its row, so that the error names the row.
  with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
    reader = csv.reader(file)
    try:
      header = [name.strip() for name in next(reader, [])]
      missing = [name for name in names if name not in header]
      if missing:
        raise UserError(
          f"{path}, row 1: the header lacks {', '.join(missing)}; expected the columns {', '.join(names)}"
        )
      columns = [header.index(name) for name in names]
      for row in reader:
        if not row:  # csv.reader returns [] for an empty line.
          continue
        if len(row) != len(header):
          raise UserError(
            f"{path}, row {reader.line_num}: {len(row)} columns, expected {len(header)}; the row is truncated "
            "or damaged: download or copy the file again"
          )
        yield reader.line_num, [row[column].strip() for column in columns]
    except csv.Error as error:
      raise UserError(
        f"{path}, row {reader.line_num}: not valid CSV ({error}): download or copy the file again"
      ) from None


def _rows(path: pathlib.Path) -> Iterator[tuple[list[str], np.ndarray]]:
  """Yields the fields (emotion, pixels, Usage) of every row and its pixels as uint8 [48 * 48]."""
  size = path.stat().st_size
  with tfds_utils.tqdm(total=size, desc=f"Reading {path.name}", unit="B", unit_scale=True, leave=False) as bar:
    for line, fields in read_columns(path, ("emotion", "pixels", "Usage")):
      try:
        yield fields, _parse_row(*fields)
      except ValueError as error:
        raise UserError(f"{path}, row {line}: {error}: download or copy the file again") from None
      bar.update(sum(map(len, fields)) + len(fields))  # The fields plus their separators, in bytes.


def _parse_row(label: str, pixels: str, usage: str) -> np.ndarray:
  """Returns the pixels of a row, uint8 [48 * 48]; raises ValueError with a description of the fault."""
  if label not in _LABELS:
    raise ValueError(f"the label (column emotion) is {label[:20]!r}, expected an integer from 0 to {len(_LABELS) - 1}")
  if usage not in SPLIT_BY_USAGE:
    raise ValueError(f"Usage is {usage[:20]!r}, expected one of {', '.join(SPLIT_BY_USAGE)}")
  with warnings.catch_warnings():
    # For text that is not a number, NumPy emits a DeprecationWarning; later versions raise a ValueError.
    warnings.simplefilter("error", DeprecationWarning)
    try:
      values = np.fromstring(pixels, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
      values = np.empty(0, np.int64)
  if values.size == _PIXELS and np.all((values >= 0) & (values <= 255)):
    return values.astype(np.uint8)
  # The slow path: find the first invalid value for the error message.
  words = pixels.split()
  for position, word in enumerate(words, 1):
    if not (word.isascii() and word.isdecimal()) or int(word) > 255:
      raise ValueError(f"pixel {position} is {word[:20]!r}, expected an integer from 0 to 255")
  raise ValueError(f"{len(words)} pixels, expected {_PIXELS} ({SIZE} x {SIZE})")


def _check_splits(path: pathlib.Path, rows: dict[str, int]) -> None:
  if not any(rows.values()):
    raise UserError(f"{path} has a header but no rows, expected at least one per Usage: download or copy it again")
  missing = [usage for usage, count in rows.items() if not count]
  if missing:
    raise UserError(
      f"{path}: none of its {sum(rows.values())} rows (the last is row {sum(rows.values()) + 1}) has Usage "
      f"{' or '.join(missing)}; expected rows of {', '.join(rows)}: the file seems truncated, download or copy it again"
    )


def _not_official(path: pathlib.Path, md5: str, rows: dict[str, int]) -> str:
  counts = ", ".join(f"{usage} {count} of {_OFFICIAL_ROWS[usage]}" for usage, count in rows.items())
  return (
    f"{path.name} is not the original: its MD5 is {md5}, and its rows differ from those of MD5 {_OFFICIAL_MD5}; "
    f"rows found: {counts}. Results on it are not comparable with published ones"
  )
