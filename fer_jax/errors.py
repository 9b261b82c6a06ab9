"""How a program ends when something other than the code is wrong: one line and an exit status, no traceback."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# A disk that is full or read-only, and one that is broken or somebody else's; others may be a fault of the code.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_OF_STORAGE = _OF_WRITING | {errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE}
_MEND = "free or mend the disk, then run the same command again"


class UserError(Exception):
  """A mistake that the user can mend: wrong use or bad input; exit status 2.

  The message is one line. It names the file and row or the config key, says what was expected and
  what to do.
  """

  status = 2


class Failure(UserError):
  """What was asked for was understood and did not succeed (a training that diverged); exit status 1."""

  status = 1


@contextlib.contextmanager
def storage(path: Path | None = None) -> Iterator[None]:
  """Turns what the system says of a full, read-only or broken disk into one line.

  Args:
    path: of what is written; None where that is not known, and the error may name it.

  Raises:
    Failure: it did; other errors pass.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _OF_STORAGE:
      raise
    what, reason = str(path or error.filename or "a file"), str(error.strerror)
    if path is not None or error.errno in _OF_WRITING:
      raise unwritable(what, reason) from error
    raise Failure(f"{what} cannot be read or written ({reason}); {_MEND}") from error


def unwritable(what: str, reason: str) -> Failure:
  """Returns the failure of a write that the system refused."""
  return Failure(f"{what} cannot be written ({reason}); {_MEND}")


def run(program: Callable[[], int | None]) -> NoReturn:
  """Runs a program and exits with its status (None is 0) or that of the error it raised; after Ctrl-C, with 130.

  Where nobody reads its output any more, as behind `| head`, it ends in silence with 141.
  """
  try:
    with storage():
      status = program()
      sys.stdout.flush()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.status)
  except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
    sys.exit(128 + signal.SIGPIPE)
  sys.exit(status)
