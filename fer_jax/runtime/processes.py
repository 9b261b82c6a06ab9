"""Multi-process runs: start-up, collective operations and shutdown. The only file that uses jax.distributed.

Every process runs the same program. Process 0 prints, logs and writes results. Actions that only one process may take
go through `first`. Collective functions must be called by all processes, in the same order.
"""

import contextlib
import functools
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from fer_jax.runtime.errors import Failure, UserError, storage

T = TypeVar("T")

# Silence after which a process counts as lost and the others end; with their shutdown this takes less than a minute.
HEARTBEAT_SECONDS = 30
# Processes of one script start together (60 s); pods and cluster nodes start one after the other (300 s).
JOIN_SECONDS, CLUSTER_JOIN_SECONDS = 60, 300
# Time that other processes wait at the end for process 0, which writes the report. Heartbeats detect its loss sooner.
_SHUTDOWN_SECONDS = 600
_TEXT_BYTES = 256  # bytes per process in the messages that processes exchange
# Patterns of the errors that a collective raises if its peer is lost: gloo, NCCL, JAX's coordination service.
_LOST = re.compile(r"gloo|nccl|UNAVAILABLE|ABORTED|coordination|heartbeat", re.IGNORECASE)


class Address(NamedTuple):
  """Address of a process among the others of its run.

  Attributes:
    coordinator: Address "host:port" on which process 0 listens.
    processes: Number of processes.
    process: Index of this process, from 0.
  """

  coordinator: str
  processes: int
  process: int


def join(address: Address | None) -> None:
  """Connects this process to the others. Call it before any device is used.

  Args:
    address: Address of this process; None to read it from the cluster (SLURM's srun, a Kubernetes job, or Open MPI).

  Raises:
    UserError: No cluster was detected.
    Failure: The other processes did not connect in time.
  """
  seconds = CLUSTER_JOIN_SECONDS if address is None else JOIN_SECONDS
  end = time.monotonic() + seconds
  initialize = functools.partial(
    jax.distributed.initialize,
    initialization_timeout=seconds,
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
  )
  try:
    if address is None:
      _retry_initialize(initialize, end)
    else:
      # Devices are set by the environment (JAX_LOCAL_DEVICE_IDS); a surrounding cluster must not override them.
      initialize(*address, cluster_detection_method="deactivate")
  except ValueError as error:
    raise UserError(
      f"--processes=auto: no cluster supported by JAX was detected ({error}); expected srun, a Kubernetes job or "
      "mpirun; elsewhere give --processes=N --process=I --coordinator=HOST:PORT"
    ) from None
  except RuntimeError as error:  # raised by JAX, or by its cluster detection
    raise Failure(f"timed out after {seconds} s without a connection to all processes ({_first_line(error)})") from None


def _retry_initialize(initialize: Callable[[], None], end: float) -> None:
  """Retries until a deadline, because a cluster's name service may resolve process 0 minutes after JAX gives up."""
  while True:
    try:
      return initialize()
    except RuntimeError as error:
      if "Retry failed" not in str(error) or time.monotonic() > end:
        raise
      time.sleep(1)


def joined() -> bool:
  """Returns whether `join` was called, even if this process is the only one."""
  return bool(jax.distributed.is_initialized())


def index() -> int:
  """Returns the index of this process; 0, without initialising the devices, if it did not join others."""
  return jax.process_index() if joined() else 0


def count() -> int:
  """Returns the number of processes; 1, without initialising the devices, if this process did not join others."""
  return jax.process_count() if joined() else 1


def broadcast(value: float) -> float:
  """Returns the value of process 0 in every process, for example a clock's. Collective."""
  if count() == 1:
    return value
  bits = np.array([value], np.float64).view(np.uint32)  # [2]; as a float64, JAX would round it to 32 bits
  return float(np.asarray(multihost_utils.broadcast_one_to_all(bits), np.uint32).view(np.float64)[0])


def everywhere(action: Callable[[], T]) -> T:
  """Runs an action in every process; if it fails in one of them, it fails in all. Collective.

  Args:
    action: Function to run.

  Returns:
    Return value of the action in this process.

  Raises:
    Exception: The action failed in this process, with this error.
    UserError: The action failed in another process; a `Failure` if it was not a `UserError` there.
  """
  if count() == 1:
    return action()
  try:
    with storage():
      result = action()
  except Exception as error:
    if not is_peer_loss(error):  # otherwise the others can no longer be reached
      status = error.status if isinstance(error, UserError) else Failure.status
      _gather_texts(f"{status} {_first_line(error)}")
    raise
  # "" from a process whose action succeeded, else "<exit status> <message>".
  for process, message in enumerate(_gather_texts("")):
    if message:
      exit_status, _, reason = message.partition(" ")
      raise (UserError if exit_status == str(UserError.status) else Failure)(f"process {process} failed: {reason}")
  return result


def first(action: Callable[[], T]) -> T | None:
  """Runs an action in process 0 while the others wait; if it fails, it fails in all processes. Collective.

  Args:
    action: Function to run.

  Returns:
    Return value of the action in process 0; None in the other processes.
  """
  return everywhere(action if index() == 0 else lambda: None)


def after_first(action: Callable[[], T]) -> T:
  """Runs an action in process 0 and then in the others, which find what it wrote to a shared disk. Collective."""
  result = first(action)
  return everywhere(lambda: result if index() == 0 else action())  # type: ignore[return-value]


def differing(value: str) -> list[int]:
  """Returns the indices of processes whose value differs from that of process 0. Collective.

  Args:
    value: Value to compare, of up to 200 letters and digits.
  """
  if count() == 1:
    return []
  values = _gather_texts(value)
  return [process for process, other_value in enumerate(values) if other_value != values[0]]


def is_peer_loss(error: BaseException) -> bool:
  """Returns whether an error indicates that another process has ended or is unreachable."""
  from_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
  return count() > 1 and from_jax and _LOST.search(str(error)) is not None


def _gather_texts(text: str) -> list[str]:
  """Returns the text of every process, in their order, cut to `_TEXT_BYTES` bytes. Collective."""
  # Strings cannot be gathered, so they travel as zero-padded uint8 [_SAID] and come back as [processes, _SAID].
  buffer = np.zeros(_TEXT_BYTES, np.uint8)
  encoded = text.encode()[:_TEXT_BYTES]
  buffer[: len(encoded)] = np.frombuffer(encoded, np.uint8)
  rows = np.asarray(multihost_utils.process_allgather(buffer), np.uint8).reshape(-1, _TEXT_BYTES)
  return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def stop_requested(call: int) -> bool:
  """Returns whether any process has received SIGTERM; all processes return True at the same call. Collective.

  Args:
    call: Number of the call, equal in all processes and increasing.
  """
  return bool(multihost_utils.reached_preemption_sync_point(call))


def run(program: Callable[[], int]) -> int:
  """Runs the program of a process that has joined others; returns its exit status.

  A failing process exits at once, without JAX's shutdown barrier: the other processes may be blocked in a collective
  that needs this one, so they would never reach the barrier.

  Args:
    program: Function that returns an exit status.
  """
  try:
    with storage():
      return program()
  except UserError as error:
    _exit(error.status, f"error: {_prefix()}{error}")
  except KeyboardInterrupt:
    _exit(128 + signal.SIGINT, "")
  except BrokenPipeError:
    _exit(128 + signal.SIGPIPE, "")
  except BaseException as error:
    if not is_peer_loss(error):
      _exit(1, traceback.format_exc())
    _exit(
      1,
      f"error: {_prefix()}another process has ended or is unreachable ({_first_line(error)}); see its output for the "
      "reason. Run the same command again to resume from the newest checkpoint",
    )


def _prefix() -> str:
  return f"process {index()} of {count()}: " if index() else ""


def _exit(status: int, message: str) -> NoReturn:
  with contextlib.suppress(OSError):  # the reader of the output may have ended
    sys.stdout.flush()
  if message:
    print(message.rstrip(), file=sys.stderr, flush=True)
  os._exit(status)


def _first_line(error: Any) -> str:
  return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
