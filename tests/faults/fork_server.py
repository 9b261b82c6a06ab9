"""Starts runs by forking a process that has already imported their modules, which takes seconds.

The server process has one thread and uses no device. A forked process runs fer_jax.main and behaves like any other: it
receives signals, can be killed, and exits through the interpreter's normal shutdown.
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


class ForkServer:
  """The process that is forked; it ends with the process that created it.

  Args:
    socket_path: Path of the socket for requests, shorter than 100 bytes.
    folder: Working directory.
    environment: Environment of the server. A forked process may differ only in variables read after the imports.
  """

  def __init__(self, socket_path: Path, folder: Path, environment: Mapping[str, str]):
    self._socket_path = str(socket_path)
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.fork_server", self._socket_path],
      cwd=folder,
      # Numerical libraries start threads when they are imported, and threads are not forked.
      env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    assert self._process.stdout
    assert self._process.stdout.readline() == "ready\n", "the fork server does not start"

  def close(self) -> None:
    """Ends the server."""
    self._process.communicate()

  def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> "ForkedProcess":
    """Starts a run with these arguments."""
    return ForkedProcess(self._socket_path, {"arguments": list(arguments), "environment": dict(environment)})


class ForkedProcess:
  """A forked process, with the interface of `subprocess.Popen`."""

  def __init__(self, socket_path: str, request: Mapping[str, Any]):
    self.returncode: int | None = None
    self._streams, self._output = [os.memfd_create(name) for name in ("out", "err")], ["", ""]
    self._socket = socket.socket(socket.AF_UNIX)
    self._socket.connect(socket_path)
    socket.send_fds(self._socket, [b"."], self._streams)
    self._socket.sendall(json.dumps(request).encode() + b"\n")
    self.pid = self._receive_number()

  def poll(self, seconds: float | None = 0) -> int | None:
    """Returns the exit status, or minus the number of the signal; None if the process still runs after `seconds`."""
    if self.returncode is None and select.select([self._socket], [], [], seconds)[0]:
      self.returncode = self._receive_number()
    return self.returncode

  def send_signal(self, number: int) -> None:
    """Sends a signal if the process still runs."""
    if self.poll() is None:
      os.kill(self.pid, number)  # the id is not reused: the process is not reaped before the socket is closed

  def kill(self) -> None:
    """Sends SIGKILL if the process still runs."""
    self.send_signal(9)

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """Waits for the process to exit; returns its standard output and standard error.

    Raises:
      subprocess.TimeoutExpired: The process still runs after `timeout` seconds.
    """
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired("a forked process", timeout or 0)
    if self._streams:
      self._socket.close()
      self._output, self._streams = [_read(stream) for stream in self._streams], []
    return self._output[0], self._output[1]

  def _receive_number(self) -> int:
    content = self._socket.recv(_NUMBER.size, socket.MSG_WAITALL)
    assert content, "the fork server has exited"
    return _NUMBER.unpack(content)[0]


def _read(stream: int) -> str:
  with open(stream, encoding="utf-8", errors="replace") as file:
    file.seek(0)
    return file.read()


def _serve(socket_path: str) -> dict[str, Any] | None:
  """Forks for each request; returns the request in each forked process, and None in the server when it ends."""
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(socket_path)
    listener.listen(64)
    print("ready", flush=True)
    while True:
      readable, _, _ = select.select([listener, sys.stdin], [], [])
      if sys.stdin in readable:  # closed: the creator has exited
        return None
      connection, _ = listener.accept()
      with connection:
        if os.fork() == 0:
          listener.close()
          return _fork_run(connection)
      while _reap():
        pass


def _fork_run(connection: socket.socket) -> dict[str, Any]:
  """Forks the run and returns its request; the other process reports the id and the exit status to the client."""
  _, streams, _, _ = socket.recv_fds(connection, 1, 2)
  with connection.makefile("r") as lines:
    request = json.loads(lines.readline())
  pid = os.fork()
  if pid == 0:
    empty = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((empty, *streams)):
      os.dup2(stream, number)
      os.close(stream)
    return request
  try:
    connection.sendall(_NUMBER.pack(pid))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    connection.sendall(_NUMBER.pack(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    connection.recv(1)
  finally:
    os._exit(0)


def _reap() -> bool:
  """Reaps a process that has exited; returns False if there is none."""
  try:
    return os.waitpid(-1, os.WNOHANG)[0] != 0
  except ChildProcessError:
    return False


def _import() -> None:
  """Imports the modules of a run."""
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
  _request = _serve(sys.argv[1])
  if _request is not None:
    os.environ.clear()
    os.environ.update(_request["environment"])
    sys.argv = ["fer_jax.main", *_request["arguments"]]
    from tests.faults import faulty_run

    faulty_run.main()
