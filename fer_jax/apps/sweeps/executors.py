"""Executors of a sweep's runs: the interface that the launcher uses, and local execution, one run at a time."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.runtime.errors import UserError

# Error line of the programs of this package (fer_jax.runtime.errors); launch/local.sh prefixes the lines of all
# processes but process 0 with the process number.
_ERROR = re.compile(r"(?:\[\d+\] )?error: (.*)")
# Error of one process of several. A process that ends because another one failed prints this form, too.
_OF_ONE = re.compile(r"process \d+ of \d+: ")


@dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    status: Exit status; 0 for success.
    error: Error message of a failed run.
  """

  status: int
  error: str = ""


class NotReady(UserError):
  """A run cannot be started now: the cluster does not respond, or the maximum number of jobs is reached."""


class NoResponse(NotReady):
  """A command of a cluster did not respond as expected; the failure may be temporary."""


class Executor(Protocol):
  """Executes runs.

  Attributes:
    concurrent: Whether a run can be started while others are active.
    dependencies: Whether a run that depends on an active run can be submitted; the executor then orders the two.
  """

  concurrent: bool = False
  dependencies: bool = False

  def command(self, run: PlannedRun) -> list[str]:
    """Returns the command that `start` executes, for display."""

  def adopt(self, run: PlannedRun) -> str:
    """Adopts a run that an earlier sweep started and that is still active; returns its state, or empty without one."""
    return ""

  def start(self, run: PlannedRun) -> str:
    """Starts a run, or adopts it if it is already active; returns a message, possibly empty.

    Raises:
      NotReady: The run cannot be started now, but may be later.
      UserError: Neither this run nor any other can be started.
    """

  def wait(self) -> Mapping[Path, Outcome]:
    """Blocks until a started run has ended, a time limit has passed, or `stop` is called.

    Returns:
      Outcomes, by workdir, of the runs that have ended since the last call.
    """

  def stop(self, signum: int) -> None:
    """Forwards a signal to the active run and to one that is being started; called from a signal handler."""

  def remaining(self) -> str:
    """Returns what stays active after the sweep exits, and how to cancel it; empty if nothing does."""
    return ""


class Local(Executor):
  """Executes runs as processes of this machine, one at a time; none outlives its sweep.

  A run has its own process group. Ctrl-C in a terminal therefore reaches only the sweep, which forwards it once; a
  second signal would end the run before it has saved its state.

  Args:
    program: Command to which the arguments of a run are appended.
  """

  def __init__(self, program: Sequence[str] = (sys.executable, "-m", "fer_jax.main")):
    self._program = program
    self._run: PlannedRun | None = None
    self._process: subprocess.Popen[str] | None = None
    self._signum: int | None = None

  def command(self, run: PlannedRun) -> list[str]:
    """Returns the run's command, with the current interpreter written as `python`."""
    return ["python" if word == sys.executable else word for word in (*self._program, *run.arguments)]

  def start(self, run: PlannedRun) -> str:
    """Starts the program in a new process group; returns an empty string."""
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
    """Blocks until the program has ended; forwards its output and keeps its last error message."""
    run, process = self._run, self._process
    assert run is not None and process is not None
    with process:
      try:
        if self._signum is not None:  # the signal arrived while the process was being created
          self.stop(self._signum)
        error = last_error(self._forwarded(process))
        status = process.wait()
      finally:
        self._process = None
        if process.poll() is None:  # the sweep itself failed: do not leave the process running
          process.terminate()
    if status < 0:  # ended by a signal: the exit status as a shell reports it
      status, error = 128 - status, f"ended by {signal.Signals(-status).name}"
    return {run.workdir: Outcome(status, error if status else "")}

  def stop(self, signum: int) -> None:
    """Sends the signal to the process; SIGHUP is sent as SIGTERM, on which a training run saves its state."""
    self._signum = signum
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        self._process.send_signal(signal.SIGTERM if signum == signal.SIGHUP else signum)

  def _forwarded(self, process: subprocess.Popen[str]) -> Iterable[str]:
    """Yields the lines of the process's stderr and writes them to the sweep's stderr."""
    assert process.stderr is not None
    for line in process.stderr:
      if self._signum is None:  # a process that is stopped while it still imports prints a traceback
        sys.stderr.write(line)
      yield line


def last_error(lines: Iterable[str]) -> str:
  """Returns the message of the last line that begins with "error: ", or the last line if there is none.

  With several processes, a message without a process number has priority: the others often only report that another
  process has failed.
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
