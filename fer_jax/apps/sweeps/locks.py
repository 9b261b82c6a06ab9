"""Locks between the processes that share a folder, on one machine or on a shared disk."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_jax.errors import UserError


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
  """Holds the lock of a file, which is made where there is none, while the context lasts.

  The lock goes with the process that holds it, however that ends. A file system without locks is warned of.

  Args:
    path: of the file, in a folder that is made, too.
    wait: whether to wait for another process that holds it.

  Raises:
    UserError: another process holds it; or the file cannot be made.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
  except OSError as error:
    raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --workdir") from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      raise UserError(
        f"{path.parent}: another launch/sweep.py is on in this folder; expected one at a time: wait for its end"
      ) from None
    except OSError as error:
      print(f"warning: {path}: no locks here ({error.strerror}): start a sweep once at a time", file=sys.stderr)
    yield
