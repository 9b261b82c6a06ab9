"""Where the runs of a sweep are executed: what the launcher asks of a place, and this machine, one run at a time."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fer_jax.apps.sweeps.plan import Run
from fer_jax.errors import UserError

# A program of ours says so what is wrong, see fer_jax.errors; launch/local.sh names all processes but the first.
_ERROR = re.compile(r"(?:\[\d+\] )?error: (.*)")
# What a process says that was ended by another's failure, as well as that failure where it was its own.
_OF_ONE = re.compile(r"process \d+ of \d+: ")


@dataclass(frozen=True)
class Outcome:
  """How a run ended: its exit status, and for one that failed what it said."""

  status: int
  error: str = ""


class Later(UserError):
  """A run cannot be started now: there is no answer, or there are as many runs on as there may be."""


class Silence(Later):
  """A command of a cluster did not answer as expected, perhaps for a while only."""


class Executor(Protocol):
  """Executes runs.

  Attributes:
    several: whether it takes runs while others are on.
    chains: whether it takes a run that begins with one that is on, and lets it wait for that one's end.
  """

  several: bool
  chains: bool

  def command(self, run: Run) -> list[str]:
    """Returns what `start` calls, to be read."""

  def state(self, run: Run) -> str:
    """Says where a run is that an earlier sweep has started and that goes on without it; empty where it does not."""

  def find(self, run: Run) -> str:
    """Takes a run over that an earlier sweep has started and that goes on; says where it is, or nothing."""

  def start(self, run: Run) -> str:
    """Starts a run, or finds it started; says what became of it.

    Raises:
      Later: it may be that it can be started later.
      UserError: it cannot be started, nor can others.
    """

  def wait(self) -> Mapping[Path, Outcome]:
    """Waits until a run that was started has ended, for a while, or until `stop` is called.

    Returns:
      how those ended that were started and have ended since it was last called, by workdir.
    """

  def stop(self, signum: int) -> None:
    """Tells what was started, and what is just being started, of a signal; called from a signal's handler."""

  def left(self) -> str:
    """Says what goes on when the sweep ends, and how to cancel it; empty where nothing does."""


class Local:
  """Executes runs as processes of this machine, one at a time.

  A run has a process group of its own: Ctrl-C in a terminal then reaches the sweep alone, which passes it on
  once. A second signal would end the run before it has saved.

  Args:
    program: the command that the arguments are given to.
  """

  several = False
  chains = False

  def __init__(self, program: Sequence[str] = (sys.executable, "-m", "fer_jax.main")):
    self._program = program
    self._run: Run | None = None
    self._process: subprocess.Popen[str] | None = None
    self._signum: int | None = None

  def command(self, run: Run) -> list[str]:
    """Returns the run's command; this Python is called python."""
    return ["python" if word == sys.executable else word for word in (*self._program, *run.arguments)]

  def state(self, run: Run) -> str:
    """Says nothing: a run of this machine ends with its sweep."""
    del run
    return ""

  def find(self, run: Run) -> str:
    """Finds nothing: a run of this machine ends with its sweep."""
    del run
    return ""

  def start(self, run: Run) -> str:
    """Starts the program."""
    self._process = subprocess.Popen(
      [*self._program, *run.arguments],
      stdin=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      errors="replace",
      process_group=0,
    )
    self._run = run
    return ""

  def wait(self) -> Mapping[Path, Outcome]:
    """Waits for the program's end; what it prints is printed, and what it says last of an error is kept."""
    run, process = self._run, self._process
    assert run is not None
    assert process is not None
    with process:
      try:
        if self._signum is not None:  # it came while the process was being made
          self.stop(self._signum)
        said = last_error(self._passed_on(process))
        status = process.wait()
      finally:
        self._process = None
        if process.poll() is None:  # the sweep itself broke: nothing of it stays behind
          process.terminate()
    if status < 0:
      status, said = 128 - status, f"ended by {signal.Signals(-status).name}"
    return {run.workdir: Outcome(status, said if status else "")}

  def stop(self, signum: int) -> None:
    """Sends the process a signal; for a terminal that is gone SIGTERM, at which a training saves."""
    self._signum = signum
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        self._process.send_signal(signal.SIGTERM if signum == signal.SIGHUP else signum)

  def left(self) -> str:
    """Says nothing: the run that is on saves and ends."""
    return ""

  def _passed_on(self, process: subprocess.Popen[str]) -> Iterable[str]:
    """Yields what the process says of errors, and says it."""
    assert process.stderr is not None
    for line in process.stderr:
      if self._signum is None:  # a process that is told to stop while it still imports answers with a traceback
        sys.stderr.write(line)
      yield line


def last_error(lines: Iterable[str]) -> str:
  """Returns what follows "error: " in the last line that begins so; the last line where none does.

  Of several processes the first says what was wrong, if it could; what the others say is often its echo.
  """
  last = named = of_one = ""
  for line in lines:
    last = line.strip() or last
    if found := _ERROR.match(last):
      if _OF_ONE.match(found.group(1)):
        of_one = found.group(1)
      else:
        named = found.group(1)
  return named or of_one or last
