"""A folder of arrays beside a prepared dataset: written as a whole or not at all, and checked before it is used."""

import contextlib
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Mapping

import numpy as np

# Raised when what a cache holds changes, so that older caches are rebuilt.
_FORMAT = 2

# What a cache holds: arrays by name, and notes on how they came about.
Columns = tuple[dict[str, np.ndarray], tuple[str, ...]]


def open_cache(folder: pathlib.Path, source: Mapping[str, int] | None = None) -> Columns | None:
  """Opens cached columns, the images memory-mapped; None where the cache is absent, damaged, old or of another source.

  Args:
    folder: of the cache.
    source: what `write_cache` was told.
  """
  try:
    contents = json.loads((folder / "contents.json").read_text())
    if contents["format"] != _FORMAT or contents.get("source") != source:
      return None
    for key, checksum in contents["crc32"].items():
      if _crc32(folder / f"{key}.npy") != checksum:
        return None
    keys = contents["crc32"]
    columns = {key: np.load(folder / f"{key}.npy", mmap_mode="r" if key == "image" else None) for key in keys}
    return columns, tuple(contents["notes"])
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def write_cache(
  folder: pathlib.Path,
  columns: Mapping[str, np.ndarray],
  notes: tuple[str, ...] = (),
  source: Mapping[str, int] | None = None,
) -> None:
  """Writes columns and notes so that other processes see either nothing or all of them.

  Args:
    folder: of the cache.
    columns: arrays by name; one named "image" is memory-mapped when the cache is opened.
    notes: on how they came about.
    source: what they were made of, files and their sizes in bytes say; a cache of another source is replaced.

  Raises:
    OSError: if it cannot be written.
  """
  folder.parent.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder.parent) as temporary:
    fresh = pathlib.Path(temporary, "fresh")
    fresh.mkdir()
    for key, column in columns.items():
      np.save(fresh / f"{key}.npy", column)
    checksums = {key: _crc32(fresh / f"{key}.npy") for key in columns}
    contents = {"format": _FORMAT, "crc32": checksums, "notes": notes}
    contents |= {"source": source} if source is not None else {}
    (fresh / "contents.json").write_text(json.dumps(contents))
    with contextlib.suppress(OSError):  # Absent, or another process has just moved it away.
      if open_cache(folder, source) is None:
        os.replace(folder, pathlib.Path(temporary, "replaced"))
    try:
      os.replace(fresh, folder)
    except OSError:
      if open_cache(folder, source) is None:
        raise


def _crc32(path: pathlib.Path) -> int:
  checksum = 0
  with path.open("rb") as file:
    while chunk := file.read(1 << 20):
      checksum = zlib.crc32(chunk, checksum)
  return checksum
