"""The folder of a run: whose it is, and the files that stand in it. Every file appears whole or not at all."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fer_jax import provenance
from fer_jax.errors import UserError


class Workdir:
  """A run's folder.

  Args:
    path: of the folder.
  """

  def __init__(self, path: Path):
    self.path = path

  def check(self, config: ConfigDict) -> bool:
    """Says whether the folder already is one of a run of this config; False where there is none yet.

    Raises:
      UserError: the folder belongs to another config (naming the key that differs) or is no run's folder.
    """
    recorded = self.path / "config.json"
    if recorded.exists():
      try:
        theirs = json.loads(recorded.read_text(encoding="utf-8"))["config"]
      except (ValueError, KeyError, TypeError):
        raise UserError(f"{recorded}: not the config.json of a run; choose another --workdir") from None
      for key, there, here in _differences(theirs, _plain(config), "config"):
        raise UserError(
          f"{self.path} holds a run of another config: {key} is {there} there and {here} here; choose another --workdir"
        )
      return True
    if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
      raise UserError(f"{self.path}: not empty and not the folder of a run; choose another --workdir")
    return False

  def claim(self, config: ConfigDict, source: str, overrides: Sequence[str], device: str) -> None:
    """Makes the folder and writes config.json, unless it is there already; raises UserError as `check` does."""
    if self.check(config):
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f"{self.path}: cannot be made ({error.strerror}); choose another --workdir") from None
    self.write_json(
      "config.json",
      {
        "config": _plain(config),
        "source": source,
        "overrides": list(overrides),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device,
      },
    )

  @property
  def result(self) -> dict[str, Any] | None:
    """What a finished run found; None while there is no result.json."""
    return self.read_json("result.json")

  def read_json(self, name: str) -> dict[str, Any] | None:
    """Reads a JSON file that `write_json` wrote; None where there is none."""
    path = self.path / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

  def write_json(self, name: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file."""
    part = self.path / f"{name}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, self.path / name)

  def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz file."""
    part = self.path / f"{name}.part"
    with part.open("wb") as file:
      np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(part, self.path / name)


def _plain(config: ConfigDict) -> dict[str, Any]:
  """Returns a config as JSON will give it back: lists for tuples."""
  return json.loads(json.dumps(config.to_dict()))


def _differences(there: Any, here: Any, path: str) -> list[tuple[str, str, str]]:
  """Lists (key, value there, value here) of the leaves that differ."""
  if isinstance(there, dict) and isinstance(here, dict):
    found = []
    for key in sorted(set(there) | set(here)):
      found += _differences(there.get(key, "absent"), here.get(key, "absent"), f"{path}.{key}")
    return found
  return [] if there == here else [(path, json.dumps(there), json.dumps(here))]
