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
    self._calls = 0

  def __enter__(self) -> "Signals":
    handled = (signal.SIGINT,) if processes.joined() else (signal.SIGINT, signal.SIGTERM)
    self._original_handlers = {signum: signal.signal(signum, self._record) for signum in handled}
    return self

  def __exit__(self, *exception: object) -> None:
    for signum, handler in self._original_handlers.items():
      signal.signal(signum, handler)

  def stop_requested(self) -> int | None:
    """Returns the received signal, or None.

    In a multi-process run this is a collective operation: all processes must call it equally often.
    """
    if not processes.joined():
      return self._signum
    self._calls += 1
    # JAX needs the same, increasing number in all processes. A process that received no signal reports SIGTERM.
    return (self._signum or signal.SIGTERM) if processes.stop_requested(self._calls) else None

  def _record(self, signum: int, frame: types.FrameType | None) -> None:
    del frame
    self._signum = signum
    # A second Ctrl-C ends the process at once.
    for number, handler in self._original_handlers.items():
      signal.signal(number, handler)
    if processes.joined():
      # JAX's preemption handler listens to SIGTERM only.
      os.kill(os.getpid(), signal.SIGTERM)
