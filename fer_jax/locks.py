"""Locks between the processes that share a folder, on one machine or on a shared disk."""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from fer_jax.errors import UserError, storage

# A server keeps the locks of a machine that is gone until its lease is over: 90 s of NFS's, and some more.
_LEASE_SECONDS = 180


def take(path: Path, *, wait: bool = False) -> TextIO:
  """Locks a file until what is returned is closed, or the process ends, however it does.

  The file, made with its folder where there is none, says who has it. If that is another machine, it may be gone
  without the file system knowing, and is waited for a while. A file system without locks is warned of.

  Args:
    path: of the file.
    wait: whether to wait for another process that has it, as long as it takes.

  Raises:
    UserError: another process has it; or the file cannot be made.
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
      _lock_or_refuse(file, path)
  except UserError:
    file.close()
    raise
  except OSError as error:  # a network file system without locks, say
    print(f"warning: {path}: no locks here ({error.strerror}): start one process at a time", file=sys.stderr)
  with storage(path):
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n{_machine()}\n")
    file.flush()
  return file


def _lock_or_refuse(file: TextIO, path: Path) -> None:
  end = time.monotonic() + _LEASE_SECONDS
  said = False
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
        f"{path.parent}: {holder} is running in this folder; wait for its end, or choose another --workdir"
      )
    if not said:
      print(f"{path.parent}: waiting up to {_LEASE_SECONDS} s for {holder}, which may be gone", file=sys.stderr)
      said = True
    time.sleep(1)


def _machine() -> str:
  """Returns what tells this machine from others, and from itself before it was started again; "" where unknown."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
  except OSError:
    return ""
