"""Caches arrays in a folder next to a prepared dataset; the cache is written atomically and verified when opened."""

import contextlib
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Mapping

import numpy as np

# Increment this when the contents of a cache change: caches of an older format are rebuilt.
_FORMAT = 3

# Contents of a cache: arrays by name, and notes on how they were made.
Columns = tuple[dict[str, np.ndarray], tuple[str, ...]]


def open_cache(folder: pathlib.Path, source: Mapping[str, int] | None = None) -> Columns | None:
  """Opens cached columns; the images are memory-mapped.

  Args:
    folder: Folder of the cache.
    source: Source that was passed to `write_cache`.

  Returns:
    The columns and notes; None if the cache is absent, damaged, of an older format, or of another source.
  """
  try:
    contents = json.loads((folder / "contents.json").read_text())
    if contents["format"] != _FORMAT or contents.get("source") != source:
      return None
    # The checksums are verified on each opening: a damaged array would otherwise go unnoticed.
    for key, checksum in contents["crc32"].items():
      if _crc32(folder / f"{key}.npy") != checksum:
        return None
    keys = contents["crc32"]
    columns = {key: np.load(folder / f"{key}.npy", mmap_mode="r" if key == "image" else None) for key in keys}
    return columns, tuple(contents["notes"])
  # Damage can appear in the JSON, in its keys and types, or in the array files.
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def write_cache(
  folder: pathlib.Path,
  columns: Mapping[str, np.ndarray],
  notes: tuple[str, ...] = (),
  source: Mapping[str, int] | None = None,
) -> None:
  """Writes columns and notes atomically: other processes find either all of them or none.

  Args:
    folder: Folder of the cache.
    columns: Arrays by name; the one named "image" is memory-mapped when the cache is opened.
    notes: Notes on how the arrays were made.
    source: Source files of the arrays, with their sizes in bytes; a cache of another source is replaced.

  Raises:
    OSError: If the cache cannot be written.
  """
  folder.parent.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder.parent) as temporary:
    new_folder = pathlib.Path(temporary, "fresh")
    new_folder.mkdir()
    for key, column in columns.items():
      np.save(new_folder / f"{key}.npy", column)
    checksums = {key: _crc32(new_folder / f"{key}.npy") for key in columns}
    contents = {"format": _FORMAT, "crc32": checksums, "notes": notes}
    contents |= {"source": source} if source is not None else {}
    (new_folder / "contents.json").write_text(json.dumps(contents))
    # A rename cannot replace a folder that has contents, so an invalid cache is moved away first.
    with contextlib.suppress(OSError):  # absent, or moved away by another process
      if open_cache(folder, source) is None:
        os.replace(folder, pathlib.Path(temporary, "replaced"))
    try:
      os.replace(new_folder, folder)
    except OSError:
      # Another process may have written the same cache in the meantime.
      if open_cache(folder, source) is None:
        raise


def _crc32(path: pathlib.Path) -> int:
  """Returns the CRC-32 of a file, read in chunks of 1 MiB."""
  checksum = 0
  with path.open("rb") as file:
    while chunk := file.read(1 << 20):
      checksum = zlib.crc32(chunk, checksum)
  return checksum
