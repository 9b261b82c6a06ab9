"""Runs fer_jax.main with the faults in the environment variable FER_JAX_FAULT, a JSON object with these optional keys:

record          file that logs the operations on files of the workdir, one "name path" per line
among, number   pattern of operations, and the number of the matching one before which the process is killed (-9)
kill_in         phase of `PHASES`, number of its start, and seconds from then until the process is killed (-9)
stop_at_step    step after which the process receives SIGTERM
clock           seconds by which the wall clock is ahead, and step after which it is set back by an hour
file_size       maximum size of a file in bytes
nan_at_step     step after which all parameters are NaN
"""

import importlib
import json
import os
import re
import resource
import runpy
import signal
import sys
import threading
import time
from typing import Any

# Phases of a run of several processes: module and function.
PHASES = {
  "join": ("fer_jax.runtime.processes", "join"),
  "preparation": ("fer_jax.training.train", "plan_replicas"),
  "compilation": ("fer_jax.training.compiled_run", "CompiledRun.initial_state"),
  "step": ("fer_jax.training.compiled_run", "CompiledRun.train_step"),
  "checkpoint": ("fer_jax.training.checkpoint", "Checkpoints.save"),
  "evaluation": ("fer_jax.training.compiled_run", "CompiledRun.evaluate"),
  "results": ("fer_jax.training.results", "by_protocol"),
  "report": ("fer_jax.apps.report", "write_report"),
}
_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
# Index of the argument with the folder descriptor to which the path is relative, by operation.
_FOLDER = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1}


def _watch_files(workdir: str, record: str, among: str, number: int) -> None:
  """Logs and counts operations on files of the workdir: creation, opening for writing, renaming, removal."""
  wanted, count = re.compile(among), 0
  file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

  def hook(event: str, arguments: tuple[Any, ...]) -> None:
    nonlocal count
    if event not in _OPERATIONS or isinstance(arguments[0], int):
      return
    path = _path(event, arguments)
    if not path.startswith(workdir):
      return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
      return
    line = f"{event} {path[len(workdir) :]}"
    count += bool(wanted.search(line))
    os.write(file, f"{line}\n".encode())
    if number and count == number:
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)


def _path(event: str, arguments: tuple[Any, ...]) -> str:
  """Returns the absolute path of an operation; trees are removed by paths relative to folder descriptors."""
  path = os.fsdecode(arguments[event == "os.rename"])
  folder = arguments[_FOLDER[event] + (event == "os.rename")] if event in _FOLDER else None
  if path.startswith("/") or folder in (None, -1):
    return path
  return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


def _at_step(step: int, action: Any) -> None:
  """Replaces the state and metrics after a step by the result of `action`."""
  from fer_jax.training.compiled_run import CompiledRun

  take = CompiledRun.train_step
  taken = 0

  def counting(self: Any, *arguments: Any) -> Any:
    nonlocal taken
    taken += 1
    done = take(self, *arguments)
    return action(*done) if taken == step else done

  CompiledRun.train_step = counting  # type: ignore[method-assign]


def _kill_in(phase: str, number: int, seconds: float) -> None:
  """Kills this process some seconds after the n-th start of a phase, whether or not the phase has ended."""
  module, path = PHASES[phase]
  *outer, name = path.split(".")
  holder = importlib.import_module(module)
  for each in outer:
    holder = getattr(holder, each)
  function, starts = getattr(holder, name), 0

  def start(*arguments: Any, **more: Any) -> Any:
    nonlocal starts
    starts += 1
    if starts == number:
      threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return function(*arguments, **more)

  setattr(holder, name, start)


def _stop(*done: Any) -> Any:
  os.kill(os.getpid(), signal.SIGTERM)
  return done


def _set_to_nan(state: Any, metrics: Any) -> Any:
  import jax

  return state.replace(params=jax.tree.map(lambda x: x * float("nan"), state.params)), metrics


def _shift_clock(ahead: float, step: int) -> None:
  """Shifts the wall clock, and sets it back by an hour after a step."""
  wall, wall_ns, shift = time.time, time.time_ns, ahead

  def back(*done: Any) -> Any:
    nonlocal shift
    shift -= 3600
    return done

  time.time = lambda: wall() + shift
  time.time_ns = lambda: wall_ns() + int(shift * 1e9)
  _at_step(step, back)


def _apply_environment() -> None:
  """Applies variables that libraries read on import, which may have happened before this process was forked."""
  if "JAX_NUM_CPU_DEVICES" in os.environ:
    import jax

    jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))


def main() -> None:
  """Installs the faults and starts the run."""
  fault = json.loads(os.environ["FER_JAX_FAULT"])
  (workdir,) = (word.removeprefix("--workdir=") for word in sys.argv if word.startswith("--workdir="))
  if "record" in fault:
    _watch_files(workdir, fault["record"], fault.get("among", ""), fault.get("number", 0))
  if "kill_in" in fault:
    _kill_in(*fault["kill_in"])
  if "clock" in fault:
    _shift_clock(*fault["clock"])
  if "file_size" in fault:
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"], resource.RLIM_INFINITY))
  if "stop_at_step" in fault:
    _at_step(fault["stop_at_step"], _stop)
  if "nan_at_step" in fault:
    _at_step(fault["nan_at_step"], _set_to_nan)
  _apply_environment()
  runpy.run_module("fer_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
