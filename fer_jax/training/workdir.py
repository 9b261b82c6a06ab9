"""The folder of a run: its config, lock and files. Files are written atomically, so none is ever incomplete."""

import contextlib
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from ml_collections import ConfigDict

from fer_jax.runtime import locks, provenance
from fer_jax.runtime.errors import UserError, storage
from fer_jax.training.run_result import RunResult, read_result

_LOCK = "lock"
# Files that a process killed before it has written config.json may leave.
_BEFORE_CONFIG = {_LOCK, "config.json.part"}


class Workdir:
  """Context manager for the folder of a run.

  `check` and `claim` lock the folder of an unfinished run, so that no other process runs in it. The lock is released
  when the context is left or the process ends.

  Args:
    path: Path of the folder.
    writes: Whether this process writes the files of the folder; in a multi-process run only process 0 does.
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
    """Checks that a run with this config may use the folder.

    Args:
      config: Config of the run.

    Returns:
      True if the folder already contains a run of this config, False if it is new.

    Raises:
      UserError: The folder contains a run of another config (the message names the key that differs), contains
        something else, cannot be written, or is in use by another process.
    """
    recorded = self._recorded()
    if recorded is not None:
      for key, there, here in _differences(_compared(recorded["config"]), _compared(_plain(config)), "config"):
        raise UserError(
          f"{self.path} contains a run of another config: {key} is {there} there and {here} here; choose another "
          "--workdir"
        )
      if not self.finished:
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
    """Creates the folder and writes config.json, if they do not exist.

    Args:
      config: Config of the run.
      source: Config file and variant that the config was read from.
      overrides: Overrides from the command line.
      device: Description of the devices, from `provenance.device`.
      data: Fingerprint of the dataset, `Arrays.fingerprint`; "" if unknown.

    Raises:
      UserError: The folder cannot be used (see `check`), or the dataset is not the one that the run started with.
    """
    if not self.check(config):
      try:
        self.path.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise UserError(f"{self.path}: cannot be created ({error.strerror}); choose another --workdir") from None
      self._take_lock()
    if self.check(config):  # repeated under the lock: another process may have claimed the folder in the meantime
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
    """Returns the content of config.json, or None if there is no such file."""
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
    """Raises UserError if the folder cannot be created or written to."""
    # The folder itself, or the closest existing parent in which it would be created.
    place = next(path for path in (self.path, *self.path.absolute().parents) if os.path.exists(path))
    if not place.is_dir():
      raise UserError(f"{self.path}: cannot be created ({place} is a file); choose another --workdir")
    if not os.access(place, os.W_OK | os.X_OK):
      raise UserError(f"{place}: cannot be written to; make it writable or choose another --workdir")

  def _expect_data(self, data: str) -> None:
    """Raises UserError if the dataset has another fingerprint than when the run started."""
    recorded = self._recorded() or {}
    began = recorded.get("data", "")
    if began and data and began != data:
      name = recorded["config"].get("data", {}).get("name", "the dataset")
      raise UserError(
        f"{self.path}: {name} has changed since this run started: its arrays' checksum is {data}, and was {began}; "
        "prepare the data as it was, or choose another --workdir"
        "prepare the data as it was, or choose another --workdir"
      )

  def _take_lock(self) -> None:
    """Locks the folder, once; the operating system releases the lock when the process ends."""
    if self._lock is not None or not self.writes:
      return
    self._lock = locks.acquire(self.path / _LOCK)

  @property
  def finished(self) -> bool:
    """Whether the run has a result."""
    return (self.path / "result.json").exists()

  @property
  def result(self) -> RunResult | None:
    """Content of result.json; None if the run is not finished."""
    return read_result(self.path / "result.json") if self.finished else None

  def read_json(self, name: str) -> dict[str, Any] | None:
    """Returns the content of a JSON file written by `write_json`; None if there is no such file."""
    path = self.path / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

  def write_json(self, name: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, if this process writes files."""
    if not self.writes:
      return
    with self._whole(name) as file:
      file.write((json.dumps(content, indent=2) + "\n").encode())

  def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz file, if this process writes files."""
    if not self.writes:
      return
    with self._whole(name) as file:
      np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

  @contextlib.contextmanager
  def _whole(self, name: str) -> Iterator[BinaryIO]:
    """Opens a temporary file for writing and renames it to its final name once its content is on the disk."""
    part = self.path / f"{name}.part"
    with storage(part):
      with part.open("wb") as file:
        yield file
        # Without fsync, a power failure could leave an empty file under the final name.
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, self.path / name)


def _plain(config: ConfigDict) -> dict[str, Any]:
  """Returns a config in the form in which JSON restores it: tuples become lists."""
  return json.loads(json.dumps(config.to_dict()))


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without the results of the paper, which do not affect a run."""
  return {key: value for key, value in config.items() if key != "paper"}


def _differences(there: Any, here: Any, path: str) -> list[tuple[str, str, str]]:
  """Returns (key, value there, value here) for each leaf that differs."""
  if isinstance(there, dict) and isinstance(here, dict):
    found = []
    for key in sorted(set(there) | set(here)):
      found += _differences(there.get(key, "absent"), here.get(key, "absent"), f"{path}.{key}")
    return found
  return [] if there == here else [(path, json.dumps(there), json.dumps(here))]
