"""SIGINT and SIGTERM as a wish to stop, granted at the next safe moment."""

import signal
import types


class Interrupted(Exception):
  """The run was told to stop and has saved its state.

  Attributes:
    signum: of the signal.
  """

  def __init__(self, signum: int, message: str):
    super().__init__(message)
    self.signum = signum


class Signals:
  """Notes SIGINT and SIGTERM while it is entered; a second one has its usual effect.

  Attributes:
    signum: of the signal that came; None before.
  """

  def __init__(self) -> None:
    self.signum: int | None = None

  def __enter__(self) -> "Signals":
    self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
    return self

  def __exit__(self, *exception: object) -> None:
    for signum, handler in self._before.items():
      signal.signal(signum, handler)

  def _note(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self.signum = signum
    for each, handler in self._before.items():
      signal.signal(each, handler)
