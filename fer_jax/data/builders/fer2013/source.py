"""Finds and reads FER2013 in a user's folder, in any of its raw forms."""

import dataclasses
import hashlib
import os
import pathlib

from fer_jax.data.builders.fer2013 import csv_form, ferplus, folder_form
from fer_jax.data.builders.fer2013.raw import Raw
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path

CSV_FILES = ("fer2013.csv", "fer2013/fer2013.csv", "icml_face_data.csv")

_ARCHIVES = ("*.zip", "*.tar.gz", "*.tgz", "*.tar")


def read(manual_dir: str | os.PathLike[str]) -> Raw:
  """Reads FER2013 from a folder, with the FER+ votes if fer2013new.csv is next to the CSV file.

  Args:
    manual_dir: Folder with fer2013.csv (or fer2013/fer2013.csv), icml_face_data.csv, or Kaggle's train/ and test/
      folders; the first form found, in this order, is read.

  Returns:
    The complete dataset after checking every row.

  Raises:
    UserError: The dataset is not found, or a file or row is invalid.
  """
  folder = local_path(manual_dir)
  try:
    for name in CSV_FILES:
      if (folder / name).is_file():
        return _with_votes(csv_form.read(folder / name), (folder / name).parent / ferplus.FILE)
    if all((folder / split).is_dir() for split in folder_form.SPLITS):
      return folder_form.read(folder)
  except OSError as error:
    raise UserError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
  raise UserError(_not_found(folder))


def _with_votes(raw: Raw, path: pathlib.Path) -> Raw:
  """Returns `raw` with the FER+ votes in `path`, or unchanged if that file does not exist."""
  if not path.is_file():
    return raw
  votes = ferplus.read_votes(path, raw.split)
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  return dataclasses.replace(raw, votes=votes, origin={**raw.origin, "ferplus_sha256": sha256})


def _not_found(folder: pathlib.Path) -> str:
  archives = sorted(path.name for pattern in _ARCHIVES for path in folder.glob(pattern))
  hint = f"; unpack {', '.join(archives)} there first" if archives else ""
  return (
    f"--manual_dir={folder} does not contain FER2013; expected one of {', '.join(CSV_FILES)}, or the folders "
    f"{' and '.join(f'{split}/<class>/' for split in folder_form.SPLITS)}{hint}"
  )
