"""File locks between processes that share a folder, on one machine or on a shared disk."""

# Not filelock: before version 3.30 it erases the record of the holder, and it fails on file systems without locks.

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from fer_jax.runtime.errors import UserError, storage

# An NFS server keeps the locks of a crashed machine until its lease expires: 90 s by default, plus a margin.
_LEASE_SECONDS = 180


def acquire(path: Path, *, wait: bool = False) -> TextIO:
  """Locks a file until the returned file is closed or the process ends, for whatever reason.

  The file is created with its folder if absent, and records the holder of the lock. A lock held by another machine may
  be left over from a crash that the file system has not noticed, so this function retries for a while before it fails.
  On a file system without locks it prints a warning and returns.

  Args:
    path: Lock file.
    wait: Whether to block until another process releases the lock, without a time limit.

  Returns:
    Open lock file.

  Raises:
    UserError: Another process holds the lock, or the file cannot be created.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --workdir") from None
  try:
    if wait:
      fcntl.flock(file, fcntl.LOCK_EX)
    else:
      _lock_or_raise(file, path)
  except UserError:
    file.close()
    raise
  except OSError as error:  # for example a network file system without locks
    print(f"warning: {path}: no locks here ({error.strerror}): start one process at a time", file=sys.stderr)
  # Recorded for the error message of the next process that wants the lock.
  with storage(path):
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n{_machine()}\n")
    file.flush()
  return file


def _lock_or_raise(file: TextIO, path: Path) -> None:
  """Locks a file, or raises UserError naming the holder; retries while the holder may be a crashed machine."""
  end = time.monotonic() + _LEASE_SECONDS
  announced = False
  while True:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except BlockingIOError:
      file.seek(0)
      holder, machine, *_ = [*file.read().splitlines(), "", ""]
    holder = holder or "another process"
    if machine in ("", _machine()) or time.monotonic() > end:
      raise UserError(
        f"{path.parent}: {holder} is running in this folder; wait until it ends, or choose another --workdir"
      )
    # The lock is held by another machine: it may have crashed, so retry until the server's lease expires.
    if not announced:
      print(f"{path.parent}: waiting up to {_LEASE_SECONDS} s for {holder}, which may have crashed", file=sys.stderr)
      announced = True
    time.sleep(1)


def _machine() -> str:
  """Returns an identifier of this machine since its last boot; "" if unavailable."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
  except OSError:
    return ""
