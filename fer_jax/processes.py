"""A run of several processes: how they find each other, agree, and end. The only file that says jax.distributed.

Every process runs the same program. The first of them, number 0, is the one that prints, logs and writes results;
what the others would do, too, and only one may, goes through `first`.
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

from fer_jax.errors import Failure, UserError, storage

T = TypeVar("T")

# A process that has not been heard of for so long is gone, and the others end: within a minute, their ends included.
HEARTBEAT_SECONDS = 30
# Those that are started by hand, or by one script, come at once; pods and nodes come up one after the other.
JOIN_SECONDS, CLUSTER_JOIN_SECONDS = 60, 300
# How long the others wait at the end for process 0, which still writes the report; one that is gone is missed before.
_SHUTDOWN_SECONDS = 600
_SAID = 256  # bytes of what the processes tell each other
# How a collective says that the other end is gone: gloo, NCCL and JAX's coordination service, in this order.
_LOST = re.compile(r"gloo|nccl|UNAVAILABLE|ABORTED|coordination|heartbeat", re.IGNORECASE)


class Address(NamedTuple):
  """Where a process stands among the others.

  Attributes:
    coordinator: "host:port" of process 0, where it listens.
    processes: how many there are.
    process: the number of this one.
  """

  coordinator: str
  processes: int
  process: int


def join(address: Address | None) -> None:
  """Meets the other processes; call it before any device is touched.

  Args:
    address: of this process; None where the cluster knows it: under SLURM's srun, in a job of Kubernetes, or Open MPI.

  Raises:
    UserError: nothing is known of a cluster here.
    Failure: the others have not come.
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
      _insist(initialize, end)
    else:
      # The devices are what the environment says (JAX_LOCAL_DEVICE_IDS), not what a cluster around us would give.
      initialize(*address, cluster_detection_method="deactivate")
  except ValueError as error:
    raise UserError(
      f"--processes=auto: no cluster that JAX knows is around this process ({error}); expected srun, a Kubernetes job "
      "or mpirun; elsewhere give --processes=N --process=I --coordinator=HOST:PORT"
    ) from None
  except RuntimeError as error:  # JAX's own, or what its detection has to say of the cluster
    raise Failure(f"the processes have not met within {seconds} s ({_first_line(error)})") from None


def _insist(initialize: Callable[[], None], end: float) -> None:
  """Joins by what the cluster says, whose name service may know process 0 minutes later than JAX has patience for."""
  while True:
    try:
      return initialize()
    except RuntimeError as error:
      if "Retry failed" not in str(error) or time.monotonic() > end:
        raise
      time.sleep(1)


def joined() -> bool:
  """Returns whether this process has joined others, or itself alone."""
  return bool(jax.distributed.is_initialized())


def index() -> int:
  """Returns the number of this process; touches no device where it is the only one."""
  return jax.process_index() if joined() else 0


def count() -> int:
  """Returns how many processes there are; touches no device where there is one."""
  return jax.process_count() if joined() else 1


def agreed(value: float) -> float:
  """Returns the value that process 0 gives, in every process: a clock's, say. All have to call it."""
  if count() == 1:
    return value
  bits = np.array([value], np.float64).view(np.uint32)  # JAX would round the number itself to 32 bits
  return float(np.asarray(multihost_utils.broadcast_one_to_all(bits), np.uint32).view(np.float64)[0])


def everywhere(action: Callable[[], T]) -> T:
  """Runs an action in every process; where it fails in one of them, it fails in all. All have to call it.

  Returns:
    what the action returned here.

  Raises:
    Exception: the action's; or where it failed in another process alone, a UserError or a Failure that says so.
  """
  if count() == 1:
    return action()
  try:
    with storage():
      done = action()
  except Exception as error:
    if not lost(error):  # else nobody is there to be told
      status = error.status if isinstance(error, UserError) else Failure.status
      _everyones(f"{status} {_first_line(error)}")
    raise
  for process, said in enumerate(_everyones("")):
    if said:
      its_status, _, reason = said.partition(" ")
      raise (UserError if its_status == str(UserError.status) else Failure)(f"process {process} says: {reason}")
  return done


def first(action: Callable[[], T]) -> T | None:
  """Runs an action in process 0 while the others wait; where it fails, it fails in all. All have to call it.

  Returns:
    what the action returned; None in the other processes.
  """
  return everywhere(action if index() == 0 else lambda: None)


def after_first(action: Callable[[], T]) -> T:
  """Runs an action in process 0, then in the others: what the first has written to a shared disk is there for them."""
  done = first(action)
  return everywhere(lambda: done if index() == 0 else action())  # type: ignore[return-value]


def differing(value: str) -> list[int]:
  """Returns the processes whose value, which should be the same in all, is not that of process 0.

  All have to call it.

  Args:
    value: up to 200 letters and digits.
  """
  if count() == 1:
    return []
  values = _everyones(value)
  return [process for process, other in enumerate(values) if other != values[0]]


def lost(error: BaseException) -> bool:
  """Returns whether an error says that another process is gone, or cannot be reached."""
  of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
  return count() > 1 and of_jax and _LOST.search(str(error)) is not None


def _everyones(text: str) -> list[str]:
  """Returns what every process says here, cut to _SAID bytes."""
  said = np.zeros(_SAID, np.uint8)
  encoded = text.encode()[:_SAID]
  said[: len(encoded)] = np.frombuffer(encoded, np.uint8)
  rows = np.asarray(multihost_utils.process_allgather(said), np.uint8).reshape(-1, _SAID)
  return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def asked_to_stop(moment: int) -> bool:
  """Returns whether any process was sent SIGTERM, in all of them at the same moment.

  Args:
    moment: a number that is the same in all processes, and greater at every call.
  """
  return bool(multihost_utils.reached_preemption_sync_point(moment))


def run(program: Callable[[], int]) -> int:
  """Runs the program of a process that has joined others; returns its exit status.

  A process that fails ends at once: to wait for the others, as JAX does at an exit, would be to wait for those that
  wait for it.
  """
  try:
    with storage():
      return program()
  except UserError as error:
    _leave(error.status, f"error: {_whoami()}{error}")
  except KeyboardInterrupt:
    _leave(128 + signal.SIGINT, "")
  except BrokenPipeError:
    _leave(128 + signal.SIGPIPE, "")
  except BaseException as error:
    if not lost(error):
      _leave(1, traceback.format_exc())
    _leave(
      1,
      f"error: {_whoami()}another process has ended, or cannot be reached any more ({_first_line(error)}); its own "
      "output says why. Run the same command again: it goes on from the newest checkpoint",
    )


def _whoami() -> str:
  return f"process {index()} of {count()}: " if index() else ""


def _leave(status: int, last_words: str) -> NoReturn:
  with contextlib.suppress(OSError):  # nobody may be there to read it
    sys.stdout.flush()
  if last_words:
    print(last_words.rstrip(), file=sys.stderr, flush=True)
  os._exit(status)


def _first_line(error: Any) -> str:
  return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
