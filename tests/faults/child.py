"""A run with a fault in it: fer_jax.main after what the environment variable FER_JAX_FAULT asks for, a JSON object.

record          file to write the operations on files of the workdir to, one a line: "name path"
among, number   expression that an operation has to match; before the one of this number the process is killed (-9)
kill_in         a phase of `PHASES`, which of the times that it begins, seconds after which the process is killed (-9)
stop_at_step    step after which the process is sent SIGTERM
clock           seconds that the wall clock is ahead, and the step after which it goes back by an hour
file_size       bytes that a file may grow to
nan_at_step     step after which every parameter is not a number
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

# What a run of several processes goes through, and the functions that do it.
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
# Where an operation says to which open folder its path is relative.
_FOLDER = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1}


def _watch(workdir: str, record: str, among: str, number: int) -> None:
  """Counts what is done to files of the workdir: made, opened for writing, renamed, removed."""
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
  """Returns the whole path that an operation is about; a tree is removed by names relative to its open folders."""
  path = os.fsdecode(arguments[event == "os.rename"])
  folder = arguments[_FOLDER[event] + (event == "os.rename")] if event in _FOLDER else None
  if path.startswith("/") or folder in (None, -1):
    return path
  return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


def _at_step(step: int, action: Any) -> None:
  """Calls an action with the state and metrics that come of a step, which it may replace."""
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
  """Kills this process so many seconds after a phase has begun for the n-th time, be the phase over or not."""
  module, path = PHASES[phase]
  *outer, name = path.split(".")
  holder = importlib.import_module(module)
  for each in outer:
    holder = getattr(holder, each)
  function, begun = getattr(holder, name), 0

  def begin(*arguments: Any, **more: Any) -> Any:
    nonlocal begun
    begun += 1
    if begun == number:
      threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return function(*arguments, **more)

  setattr(holder, name, begin)


def _stop(*done: Any) -> Any:
  os.kill(os.getpid(), signal.SIGTERM)
  return done


def _spoil(state: Any, metrics: Any) -> Any:
  import jax

  return state.replace(params=jax.tree.map(lambda x: x * float("nan"), state.params)), metrics


def _shift_clock(ahead: float, step: int) -> None:
  """Shifts the wall clock; after a step it goes back by an hour."""
  wall, wall_ns, shift = time.time, time.time_ns, ahead

  def back(*done: Any) -> Any:
    nonlocal shift
    shift -= 3600
    return done

  time.time = lambda: wall() + shift
  time.time_ns = lambda: wall_ns() + int(shift * 1e9)
  _at_step(step, back)


def _read_environment() -> None:
  """Reads what libraries read as they are imported, which may have been before this process was forked."""
  if "JAX_NUM_CPU_DEVICES" in os.environ:
    import jax

    jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
  if "tensorflow_datasets" in sys.modules:
    sys.modules["tensorflow_datasets.core.constants"].DATA_DIR = os.environ["TFDS_DATA_DIR"]  # type: ignore[attr-defined]


def main() -> None:
  """Puts the fault in place and runs."""
  fault = json.loads(os.environ["FER_JAX_FAULT"])
  (workdir,) = (word.removeprefix("--workdir=") for word in sys.argv if word.startswith("--workdir="))
  if "record" in fault:
    _watch(workdir, fault["record"], fault.get("among", ""), fault.get("number", 0))
  if "kill_in" in fault:
    _kill_in(*fault["kill_in"])
  if "clock" in fault:
    _shift_clock(*fault["clock"])
  if "file_size" in fault:
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"], resource.RLIM_INFINITY))
  if "stop_at_step" in fault:
    _at_step(fault["stop_at_step"], _stop)
  if "nan_at_step" in fault:
    _at_step(fault["nan_at_step"], _spoil)
  _read_environment()
  runpy.run_module("fer_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
