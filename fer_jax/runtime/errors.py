"""Error types and exit statuses: expected failures end a program with one line on stderr, without a traceback."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# Errors of a full or read-only disk, and of a broken or foreign one. Other OSErrors may be bugs and are not caught.
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_STORAGE_ERRORS = _WRITE_ERRORS | {errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE}
_ADVICE = "free or repair the disk, then run the same command again"


class UserError(Exception):
  """A mistake that the user can fix: wrong usage or invalid input; exit status 2.

  The message is one line. It names the file and row or the config key, what was expected, and what to do.
  """

  status = 2


class Failure(UserError):
  """A valid request that did not succeed, such as a training run that diverged; exit status 1."""

  status = 1


@contextlib.contextmanager
def storage(path: Path | None = None) -> Iterator[None]:
  """Context manager that converts errors of a full, read-only or broken disk into a one-line `Failure`.

  Args:
    path: File that is written inside the context; None if unknown, in which case the file name of the OSError is used.

  Raises:
    Failure: The disk is full, read-only or broken; other errors propagate unchanged.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _STORAGE_ERRORS:
      raise
    what, reason = str(path or error.filename or "a file"), str(error.strerror)
    # Without a path, only some error codes prove that a write failed.
    if path is not None or error.errno in _WRITE_ERRORS:
      raise unwritable(what, reason) from error
    raise Failure(f"{what} cannot be read or written ({reason}); {_ADVICE}") from error


def unwritable(what: str, reason: str) -> Failure:
  """Returns a `Failure` for a write that the operating system refused.

  Args:
    what: File or description of what could not be written.
    reason: Message of the operating system.
  """
  return Failure(f"{what} cannot be written ({reason}); {_ADVICE}")


def run(program: Callable[[], int | None]) -> NoReturn:
  """Runs a program and exits with its status.

  The exit status is that of the program or of the `UserError` it raised, 130 after Ctrl-C, and 141 without a message
  if the reader of its output has closed the pipe, as in `| head`.

  Args:
    program: Function that returns an exit status; None means 0.
  """
  _open_standard_streams()
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at exit
    sys.exit(128 + signal.SIGPIPE)
  sys.exit(status)


def _open_standard_streams() -> None:
  """Opens the null device for each standard stream that the parent process has closed.

  Otherwise the next files to be opened would get their numbers, and messages of libraries would be written into them.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `number`
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
