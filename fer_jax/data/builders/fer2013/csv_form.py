"""FER2013 as one CSV file: `fer2013.csv`, or `icml_face_data.csv` with its columns in another order."""

import csv
import hashlib
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from tensorflow_datasets.core import utils as tfds_utils

from fer_jax.data.builders.fer2013.raw import CLASS_NAMES, SIZE, Raw
from fer_jax.errors import UserError

SPLIT_OF_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}

_OFFICIAL_MD5 = "f8428a1edbd21e88f42c73edd2a14f95"
_OFFICIAL_ROWS = {"Training": 28_709, "PublicTest": 3_589, "PrivateTest": 3_589}
_LABELS = {str(label): label for label in range(len(CLASS_NAMES))}
_PIXELS = SIZE * SIZE


def read(path: pathlib.Path) -> Raw:
  """Reads and checks a whole CSV file.

  Args:
    path: a file with the columns `emotion`, `pixels` and `Usage`, in any order.

  Returns:
    Every row of the file. Bytes that are not the official file's make a warning, not an error.

  Raises:
    UserError: naming the file and the row (its line in an editor), at the first row that is wrong; or
      where the file is empty or has no row of one of the three splits.
  """
  if path.stat().st_size == 0:
    raise UserError(f"{path} is empty (0 bytes): download or copy it again")
  with path.open("rb") as file:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    md5 = hashlib.file_digest(file, "md5").hexdigest()
  content = hashlib.md5(b"emotion,pixels,Usage\n")
  image, label, usage = [], [], []
  for fields, pixels in _rows(path):
    image.append(pixels)
    label.append(_LABELS[fields[0]])
    usage.append(fields[2])
    content.update((",".join(fields) + "\n").encode())
  rows = {name: usage.count(name) for name in SPLIT_OF_USAGE}
  _check_splits(path, rows)
  complaints = [] if content.hexdigest() == _OFFICIAL_MD5 else [_not_official(path, md5, rows)]
  return Raw(
    image=np.stack(image).reshape(-1, SIZE, SIZE),
    label=np.array(label),
    split=np.array([SPLIT_OF_USAGE[name] for name in usage]),
    origin={"form": "csv", "path": str(path), "sha256": sha256, "md5": md5},
    warnings=tuple(complaints),
  )


def read_columns(path: pathlib.Path, names: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
  """Yields the line number and the named columns' fields, stripped, of every row after the header.

  Raises:
    UserError: if the header lacks a name, or a row a column; if the file is not CSV at all.
  """
  # A byte that is no UTF-8 must end as a complaint about a row, so it is replaced here and caught there.
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
        if not row:  # An empty line holds no record.
          continue
        if len(row) != len(header):
          raise UserError(
            f"{path}, row {reader.line_num}: {len(row)} columns, expected {len(header)}; the row is cut "
            "short or damaged: download or copy the file again"
          )
        yield reader.line_num, [row[column].strip() for column in columns]
    except csv.Error as error:
      raise UserError(f"{path}, row {reader.line_num}: not CSV ({error}): copy the file again") from None


def _rows(path: pathlib.Path) -> Iterator[tuple[list[str], np.ndarray]]:
  """Yields the three fields of every row, in the official order, and its pixels, uint8 [48 * 48]."""
  size = path.stat().st_size
  with tfds_utils.tqdm(total=size, desc=f"Reading {path.name}", unit="B", unit_scale=True, leave=False) as bar:
    for line, fields in read_columns(path, ("emotion", "pixels", "Usage")):
      try:
        yield fields, _check(*fields)
      except ValueError as error:
        raise UserError(f"{path}, row {line}: {error}: download or copy the file again") from None
      bar.update(sum(map(len, fields)) + len(fields))


def _check(label: str, pixels: str, usage: str) -> np.ndarray:
  """Returns the pixels of a row; raises ValueError saying what is wrong with the row."""
  if label not in _LABELS:
    raise ValueError(f"the label (column emotion) is {label[:20]!r}, expected 0 to {len(_LABELS) - 1}")
  if usage not in SPLIT_OF_USAGE:
    raise ValueError(f"Usage is {usage[:20]!r}, expected {', '.join(SPLIT_OF_USAGE)}")
  with warnings.catch_warnings():
    # NumPy reports text that is no number by a DeprecationWarning, and in later versions by a ValueError.
    warnings.simplefilter("error", DeprecationWarning)
    try:
      values = np.fromstring(pixels, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
      values = np.empty(0, np.int64)
  if values.size == _PIXELS and np.all((values >= 0) & (values <= 255)):
    return values.astype(np.uint8)
  words = pixels.split()
  for position, word in enumerate(words, 1):
    if not (word.isascii() and word.isdecimal()) or int(word) > 255:
      raise ValueError(f"pixel {position} is {word[:20]!r}, expected a whole number from 0 to 255")
  raise ValueError(f"{len(words)} pixels, expected {_PIXELS} ({SIZE} x {SIZE})")


def _check_splits(path: pathlib.Path, rows: dict[str, int]) -> None:
  if not any(rows.values()):
    raise UserError(f"{path} has a header but no rows: download or copy it again")
  absent = [usage for usage, count in rows.items() if not count]
  if absent:
    raise UserError(
      f"{path}: none of its {sum(rows.values())} rows (the last is row {sum(rows.values()) + 1}) has Usage "
      f"{' or '.join(absent)}; expected rows of {', '.join(rows)}: the file seems cut short, copy it again"
    )


def _not_official(path: pathlib.Path, md5: str, rows: dict[str, int]) -> str:
  counts = ", ".join(f"{usage} {count} of {_OFFICIAL_ROWS[usage]}" for usage, count in rows.items())
  return (
    f"{path.name} is not the original: its MD5 is {md5}, and its rows are not those of MD5 {_OFFICIAL_MD5}; "
    f"rows found: {counts}. Results on it cannot be compared with published ones"
  )
