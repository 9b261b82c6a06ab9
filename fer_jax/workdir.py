"""The folder of a run: whose it is, who runs in it, and its files. Every file appears whole or not at all."""

import contextlib
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from ml_collections import ConfigDict

from fer_jax import locks, provenance
from fer_jax.errors import UserError, storage

_LOCK = "lock"
# What a process that is killed before config.json stands leaves behind.
_BEFORE_CONFIG = {_LOCK, "config.json.part"}


class Workdir:
  """A run's folder.

  `check` and `claim` lock the folder of a run that is not finished: nobody else runs in it until the process ends,
  however it ends, or this context manager is left.

  Args:
    path: of the folder.
    writes: whether this process is the one that writes its files.
  """

  def __init__(self, path: Path, writes: bool = True):
    self.path, self.writes = path, writes
    self._lock: TextIO | None = None

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
  ) -> None:
    if self._lock is not None:
      self._lock.close()
      self._lock = None

  def check(self, config: ConfigDict) -> bool:
    """Says whether the folder already is one of a run of this config; False where there is none yet.

    Raises:
      UserError: the folder belongs to another config (naming the key that differs), is no run's folder, cannot be
        written, or another process is running in it.
    """
    recorded = self._recorded()
    if recorded is not None:
      for key, there, here in _differences(recorded["config"], _plain(config), "config"):
        raise UserError(
          f"{self.path} holds a run of another config: {key} is {there} there and {here} here; choose another --workdir"
        )
      if self.result is None:
        self._expect_writable()
        self._take_lock()
      return True
    if os.path.exists(self.path) and (
      not self.path.is_dir() or any(path.name not in _BEFORE_CONFIG for path in self.path.iterdir())
    ):
      raise UserError(f"{self.path}: not empty and not the folder of a run; choose another --workdir")
    self._expect_writable()
    return False

  def claim(self, config: ConfigDict, source: str, overrides: Sequence[str], device: str, data: str = "") -> None:
    """Makes the folder and writes config.json, unless it is there already.

    Args:
      config: of the run.
      source: where it was read from.
      overrides: from the command line.
      device: that it runs on, in words.
      data: fingerprint of the dataset, `Arrays.fingerprint`; "" where it is not known.

    Raises:
      UserError: as `check` does, or the dataset is not the one that the run began with.
    """
    if not self.check(config):
      try:
        self.path.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise UserError(f"{self.path}: cannot be made ({error.strerror}); choose another --workdir") from None
      self._take_lock()
    if self.check(config):  # now that nobody else can begin a run here
      self._expect_data(data)
      return
    self.write_json(
      "config.json",
      {
        "config": _plain(config),
        "data": data,
        "source": source,
        "overrides": list(overrides),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device,
      },
    )

  def _recorded(self) -> dict[str, Any] | None:
    """Returns what config.json holds; None where there is none."""
    path = self.path / "config.json"
    if not os.path.exists(path):
      return None
    try:
      recorded = json.loads(path.read_text(encoding="utf-8"))
      recorded["config"]
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({error.strerror}); choose another --workdir") from None
    except (ValueError, KeyError, TypeError):
      raise UserError(f"{path}: not the config.json of a run; choose another --workdir") from None
    return recorded

  def _expect_writable(self) -> None:
    """Raises UserError where files cannot be made in the folder, or the folder cannot be made."""
    place = next(path for path in (self.path, *self.path.absolute().parents) if os.path.exists(path))
    if not place.is_dir():
      raise UserError(f"{self.path}: cannot be made ({place} is a file); choose another --workdir")
    if not os.access(place, os.W_OK | os.X_OK):
      raise UserError(f"{place}: cannot be written to; make it writable or choose another --workdir")

  def _expect_data(self, data: str) -> None:
    recorded = self._recorded() or {}
    began = recorded.get("data", "")
    if began and data and began != data:
      name = recorded["config"].get("data", {}).get("name", "the dataset")
      raise UserError(
        f"{self.path}: {name} has changed since this run began: its arrays' checksum is {data}, and was {began}; "
        "prepare the data as it was, or choose another --workdir"
      )

  def _take_lock(self) -> None:
    """Locks the folder, once; the system lets go of it when the process ends."""
    if self._lock is not None or not self.writes:
      return
    self._lock = locks.take(self.path / _LOCK)

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
    if not self.writes:
      return
    with self._whole(name) as file:
      file.write((json.dumps(content, indent=2) + "\n").encode())

  def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz file."""
    if not self.writes:
      return
    with self._whole(name) as file:
      np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

  @contextlib.contextmanager
  def _whole(self, name: str) -> Iterator[BinaryIO]:
    """Opens a file that takes its name when all of it is on the disk."""
    part = self.path / f"{name}.part"
    with storage(part):
      with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
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
