"""Locks between the processes that share a folder, on one machine or on a shared disk."""

import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import TextIO

from fer_jax.errors import UserError, storage


def take(path: Path, *, wait: bool = False) -> TextIO:
  """Locks a file until what is returned is closed, or the process ends, however it does.

  The file, made with its folder where there is none, says who has it. A file system without locks is warned of.

  Args:
    path: of the file.
    wait: whether to wait for another process that has it.

  Raises:
    UserError: another process has it; or the file cannot be made.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --workdir") from None
  try:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    file.seek(0)
    holder = file.read().strip() or "another process"
    file.close()
    raise UserError(
      f"{path.parent}: {holder} is running in this folder; wait for its end, or choose another --workdir"
    ) from None
  except OSError as error:  # a network file system without locks, say
    print(f"warning: {path}: no locks here ({error.strerror}): start one process at a time", file=sys.stderr)
  with storage(path):
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
  return file
