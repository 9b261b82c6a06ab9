"""How a program ends when something other than the code is wrong: one line and an exit status, no traceback."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
  """A mistake that the user can mend: wrong use or bad input; exit status 2.

  The message is one line. It names the file and row or the config key, says what was expected and
  what to do.
  """

  status = 2


class Failure(UserError):
  """What was asked for was understood and did not succeed (a training that diverged); exit status 1."""

  status = 1


def run(program: Callable[[], int | None]) -> NoReturn:
  """Runs a program and exits with its status (None is 0) or that of the error it raised; after Ctrl-C, with 130."""
  try:
    status = program()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.status)
  except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
  sys.exit(status)
