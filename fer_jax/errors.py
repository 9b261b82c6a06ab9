"""How a program ends when the user, not the code, made the mistake: one line and exit status 2."""

import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
  """A mistake that the user can mend.

  The message is one line. It names the file and row or the config key, says what was expected and
  what to do. Programs print it without a traceback and exit with status 2.
  """


def run(program: Callable[[], int | None]) -> NoReturn:
  """Runs a command-line program and exits with its status (None is 0), or with 2 after a UserError."""
  try:
    status = program()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  sys.exit(status)
