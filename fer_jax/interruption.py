"""SIGINT and SIGTERM as a wish to stop, granted at the next safe moment."""

import os
import signal
import types

from fer_jax import processes


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

  Where processes have joined, JAX takes SIGTERM and tells the others; SIGINT is passed on as that.
  """

  def __init__(self) -> None:
    self._signum: int | None = None
    self._asked = 0

  def __enter__(self) -> "Signals":
    noted = (signal.SIGINT,) if processes.joined() else (signal.SIGINT, signal.SIGTERM)
    self._before = {s: signal.signal(s, self._note) for s in noted}
    return self

  def __exit__(self, *exception: object) -> None:
    for signum, handler in self._before.items():
      signal.signal(signum, handler)

  def asked_to_stop(self) -> int | None:
    """Returns the signal that came, None before; of several processes all have to ask, equally often."""
    if not processes.joined():
      return self._signum
    self._asked += 1
    return (self._signum or signal.SIGTERM) if processes.asked_to_stop(self._asked) else None

  def _note(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self._signum = signum
    for each, handler in self._before.items():
      signal.signal(each, handler)
    if processes.joined():
      os.kill(os.getpid(), signal.SIGTERM)
