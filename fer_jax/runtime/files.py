"""Local paths, JSON files, and text files that are written atomically."""

import json
import os
import re
from pathlib import Path
from typing import Any

import platformdirs

from fer_jax.runtime.errors import UserError


def local_path(path: str | os.PathLike[str]) -> Path:
  """Returns a path that a user gave, with `~` replaced by the home folder, which shells leave in `--out=~/file`.

  Raises:
    UserError: The path is an address such as gs://bucket/folder, or there is no home folder.
  """
  text = os.fspath(path)
  if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
    raise UserError(f"{text}: expected a local path, found an address of {scheme[0]}; mount or copy the files")
  expanded = os.path.expanduser(text)
  # "~name" may be the name of a file.
  if expanded == text and (text == "~" or text.startswith("~/")):
    raise UserError(f"{text}: there is no home folder; set HOME or give an absolute path")
  return Path(expanded)


def cache_folder() -> Path | None:
  """Returns the folder of this package in the user's cache; None if there is no home folder."""
  try:
    return platformdirs.user_cache_path("fer_jax")
  except RuntimeError:
    return None


def read_json(path: Path) -> dict[str, Any]:
  """Reads a file that contains one JSON object.

  Raises:
    UserError: The file cannot be read or contains something else.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path}: expected a JSON object, cannot read it ({error}); run the program that writes it again"
    ) from None
  if not isinstance(value, dict):
    raise UserError(
      f"{path}: expected a JSON object, found {type(value).__name__}; run the program that writes it again"
    )
  return value


def write_text(path: Path, text: str) -> None:
  """Writes a text file atomically; creates its folder.

  Raises:
    UserError: The folder or the file cannot be written.
  """
  # Written next to the target and renamed, which is atomic within a file system.
  partial = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      partial.write_text(text, encoding="utf-8", newline="\n")
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(
      f"{path}: cannot be written ({error.strerror or error}); free disk space or choose another path"
    ) from None
