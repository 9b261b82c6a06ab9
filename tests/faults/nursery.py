"""Starts runs by forking a process that has imported what they need, which takes seconds once and not in each.

That process has one thread and has touched no device. What is forked from it runs fer_jax.main, and is a process like
any other: it can be sent signals, is killed, and ends through the interpreter's own end.
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NUMBER = struct.Struct("i")


class Nursery:
  """The process that is forked; it ends with the one that made it.

  Args:
    place: of the socket on which it is asked; a path of less than 100 bytes.
    folder: that it works in.
    environment: of that process; only what is read after the imports may differ in what it forks.
  """

  def __init__(self, place: Path, folder: Path, environment: Mapping[str, str]):
    self._place = str(place)
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.nursery", self._place],
      cwd=folder,
      # The numerical libraries would start threads as they are imported, and threads are not forked.
      env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    assert self._process.stdout
    assert self._process.stdout.readline() == "ready\n", "the process to be forked does not start"

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()

  def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> "Forked":
    """Starts a run with these arguments."""
    return Forked(self._place, {"arguments": list(arguments), "environment": dict(environment)})


class Forked:
  """A process that was forked, to be handled as a `subprocess.Popen`."""

  def __init__(self, place: str, told: Mapping[str, Any]):
    self.returncode: int | None = None
    self._streams, self._said = [os.memfd_create(name) for name in ("out", "err")], ["", ""]
    self._socket = socket.socket(socket.AF_UNIX)
    self._socket.connect(place)
    socket.send_fds(self._socket, [b"."], self._streams)
    self._socket.sendall(json.dumps(told).encode() + b"\n")
    self.pid = self._number()

  def poll(self, seconds: float | None = 0) -> int | None:
    """Returns the exit status, or minus the signal that ended it; None where it has not ended after some seconds."""
    if self.returncode is None and select.select([self._socket], [], [], seconds)[0]:
      self.returncode = self._number()
    return self.returncode

  def send_signal(self, number: int) -> None:
    """Sends a signal, unless it has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)  # nobody else's: it is not reaped before the socket is closed

  def kill(self) -> None:
    """Sends SIGKILL, unless it has ended."""
    self.send_signal(9)

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """Waits for its end; returns what it said on both streams.

    Raises:
      subprocess.TimeoutExpired: it has not ended after so many seconds.
    """
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired("a forked process", timeout or 0)
    if self._streams:
      self._socket.close()
      self._said, self._streams = [_read(stream) for stream in self._streams], []
    return self._said[0], self._said[1]

  def _number(self) -> int:
    content = self._socket.recv(_NUMBER.size, socket.MSG_WAITALL)
    assert content, "the process to be forked is gone"
    return _NUMBER.unpack(content)[0]


def _read(stream: int) -> str:
  with open(stream, encoding="utf-8", errors="replace") as file:
    file.seek(0)
    return file.read()


def _serve(place: str) -> dict[str, Any] | None:
  """Forks whenever it is asked to; returns what is to be run, in what it forks, and None at the end."""
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(place)
    listener.listen(64)
    print("ready", flush=True)
    while True:
      readable, _, _ = select.select([listener, sys.stdin], [], [])
      if sys.stdin in readable:  # closed: who asks is gone
        return None
      connection, _ = listener.accept()
      with connection:
        if os.fork() == 0:
          listener.close()
          return _keep(connection)
      while _ended():
        pass


def _keep(connection: socket.socket) -> dict[str, Any]:
  """Forks the run, returns in it what it is told, and in the other process tells who asked how it ended."""
  _, streams, _, _ = socket.recv_fds(connection, 1, 2)
  with connection.makefile("r") as lines:
    told = json.loads(lines.readline())
  pid = os.fork()
  if pid == 0:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, *streams)):
      os.dup2(stream, number)
      os.close(stream)
    return told
  try:
    connection.sendall(_NUMBER.pack(pid))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    connection.sendall(_NUMBER.pack(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    connection.recv(1)
  finally:
    os._exit(0)


def _ended() -> bool:
  """Reaps a process that has ended; False where there is none."""
  try:
    return os.waitpid(-1, os.WNOHANG)[0] != 0
  except ChildProcessError:
    return False


def _import() -> None:
  """Imports what runs import anyway."""
  import fer_jax.apps.report
  import fer_jax.config.command_line
  import fer_jax.data.builders.fer2013
  import fer_jax.training.train

  del fer_jax
  threads = os.listdir("/proc/self/task")
  if threading.active_count() > 1 or len(threads) > 1:
    sys.exit(f"{len(threads)} threads after the imports: this process cannot be forked")


if __name__ == "__main__":
  _import()
  _told = _serve(sys.argv[1])
  if _told is not None:
    os.environ.clear()
    os.environ.update(_told["environment"])
    sys.argv = ["fer_jax.main", *_told["arguments"]]
    from tests.faults import child

    child.main()
