"""Where a run of a sweep is executed. `BACKENDS` maps a name of `--backend` to what executes one run."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

_ERROR = "error: "  # a program of ours says so what is wrong; see fer_jax.errors


@dataclass(frozen=True)
class Outcome:
  """How a run ended: its exit status, and for one that failed what it said."""

  status: int
  error: str = ""


class Executor(Protocol):
  """Executes runs, one at a time."""

  def run(self, arguments: Sequence[str]) -> Outcome:
    """Runs `python -m fer_jax.main` with these arguments to its end."""

  def stop(self, signum: int) -> None:
    """Sends the run that is on, or is just beginning, a signal; called from a signal's handler."""


class Local:
  """Executes runs as processes of this machine.

  A run has a process group of its own: Ctrl-C in a terminal then reaches the sweep alone, which passes it on
  once. A second signal would end the run before it has saved.

  Args:
    program: the command that the arguments are given to.
  """

  def __init__(self, program: Sequence[str] = (sys.executable, "-m", "fer_jax.main")):
    self._program = program
    self._process: subprocess.Popen[str] | None = None
    self._signum: int | None = None

  def run(self, arguments: Sequence[str]) -> Outcome:
    """Runs the program to its end; what it prints is printed, and what it says last of an error is kept."""
    with subprocess.Popen(
      [*self._program, *arguments],
      stdin=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      errors="replace",
      process_group=0,
    ) as process:
      self._process = process
      try:
        if self._signum is not None:  # it came while the process was being made
          self.stop(self._signum)
        said = self._last_words(process)
        status = process.wait()
      finally:
        self._process = None
        if process.poll() is None:  # the sweep itself broke: nothing of it stays behind
          process.terminate()
    if status < 0:
      status, said = 128 - status, f"ended by {signal.Signals(-status).name}"
    return Outcome(status, said if status else "")

  def stop(self, signum: int) -> None:
    """Sends the process a signal."""
    self._signum = signum
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        self._process.send_signal(signum)

  def _last_words(self, process: subprocess.Popen[str]) -> str:
    """Passes on what the process says of errors; returns the last line, or the last that begins with "error: "."""
    last = named = ""
    assert process.stderr is not None
    for line in process.stderr:
      if self._signum is None:  # a process that is told to stop while it still imports answers with a traceback
        sys.stderr.write(line)
      last = line.strip() or last
      named = last.removeprefix(_ERROR) if last.startswith(_ERROR) else named
    return named or last


BACKENDS: dict[str, Callable[[], Executor]] = {"local": Local}
