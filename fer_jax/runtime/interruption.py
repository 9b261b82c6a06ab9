"""SIGINT and SIGTERM as requests to stop, handled at the next safe point of the training loop."""

import os
import signal
import types

from fer_jax.runtime import processes


class Interrupted(Exception):
  """Raised when the run was stopped by a signal and has saved its state.

  Attributes:
    signum: Number of the signal.
  """

  def __init__(self, signum: int, message: str):
    super().__init__(message)
    self.signum = signum


class Signals:
  """Context manager that records SIGINT and SIGTERM; a second signal has its original effect.

  In a multi-process run, JAX handles SIGTERM and propagates it to all processes, and SIGINT is forwarded as SIGTERM.
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
    """Returns the received signal, or None.

    In a multi-process run this is a collective operation: all processes must call it equally often.
    """
    if not processes.joined():
      return self._signum
    self._asked += 1
    # JAX needs the same, increasing number in all processes. A process that received no signal reports SIGTERM.
    return (self._signum or signal.SIGTERM) if processes.asked_to_stop(self._asked) else None

  def _note(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self._signum = signum
    # A second Ctrl-C ends the process at once.
    for each, handler in self._before.items():
      signal.signal(each, handler)
    if processes.joined():
      # JAX's preemption handler listens to SIGTERM only.
      os.kill(os.getpid(), signal.SIGTERM)
