"""Reads JSON files, and writes text files atomically."""

import json
import os
from pathlib import Path
from typing import Any

from fer_jax.runtime.errors import UserError


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
    raise UserError(f"{path}: cannot be written ({error}); free disk space or choose another path") from None
