"""A run with a fault in it: fer_jax.main after what the environment variable FER_JAX_FAULT asks for, a JSON object.

record_operations   file to write the operations on files of the workdir to, one a line
kill_at_operation   number of the operation before which the process is killed (-9)
stop_at_step        step after which the process is sent SIGTERM
clock               seconds that the wall clock is ahead, and again that it goes back by in the middle of the run
file_size           bytes that a file may grow to
nan_at_step         step from which on the loss is not a number
"""

import json
import os
import resource
import runpy
import signal
import sys
import time
from typing import Any

_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def _watch(workdir: str, record: str, kill_at: int) -> None:
  """Counts what is done to files of the workdir: made, opened for writing, renamed, removed."""
  count = 0
  file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if record else -1

  def hook(event: str, arguments: tuple[Any, ...]) -> None:
    nonlocal count
    if event not in _OPERATIONS:
      return
    path = os.fsdecode(arguments[event == "os.rename"]) if not isinstance(arguments[0], int) else ""
    if not path.startswith(workdir):
      return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
      return
    count += 1
    if record:
      os.write(file, f"{event} {path[len(workdir) :]}\n".encode())
    if count == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)


def _at_step(step: int, action: Any) -> None:
  """Calls an action with the state and metrics that come of a step, which it may replace."""
  from fer_jax.rig import Rig

  take = Rig.step
  taken = 0

  def counting(self: Any, *arguments: Any) -> Any:
    nonlocal taken
    taken += 1
    done = take(self, *arguments)
    return action(*done) if taken == step else done

  Rig.step = counting  # type: ignore[method-assign]


def _stop(*done: Any) -> Any:
  os.kill(os.getpid(), signal.SIGTERM)
  return done


def _spoil(state: Any, metrics: Any) -> Any:
  import jax

  return state.replace(params=jax.tree.map(lambda x: x * float("nan"), state.params)), metrics


def _shift_clock(ahead: float, back_after: float) -> None:
  """Shifts the wall clock; after some seconds it goes back to where it should be, or further."""
  wall, wall_ns, begun = time.time, time.time_ns, time.monotonic()

  def shift() -> float:
    return ahead if time.monotonic() - begun < back_after else ahead - 3600

  time.time = lambda: wall() + shift()
  time.time_ns = lambda: wall_ns() + int(shift() * 1e9)


def main() -> None:
  """Puts the fault in place and runs."""
  fault = json.loads(os.environ["FER_JAX_FAULT"])
  (workdir,) = (word.removeprefix("--workdir=") for word in sys.argv if word.startswith("--workdir="))
  if "record_operations" in fault or "kill_at_operation" in fault:
    _watch(workdir, fault.get("record_operations", ""), fault.get("kill_at_operation", 0))
  if "clock" in fault:
    _shift_clock(*fault["clock"])
  if "file_size" in fault:
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"], resource.RLIM_INFINITY))
  if "stop_at_step" in fault:
    _at_step(fault["stop_at_step"], _stop)
  if "nan_at_step" in fault:
    _at_step(fault["nan_at_step"], _spoil)
  runpy.run_module("fer_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
