"""Output of a run: console lines, metrics.jsonl and TensorBoard events; and a stopwatch that times activities."""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from fer_jax.runtime.errors import storage

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compile_seconds = 0.0  # total of this process; stopwatches take differences of it


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
  global _compile_seconds  # noqa: PLW0603  jax.monitoring offers no per-run listener, and none can be removed
  if event == _COMPILE_EVENT:
    _compile_seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
  """Measures how long something takes, in total and by activity.

  Args:
    seconds_before: Seconds that had already passed before this stopwatch was created.
    now: Clock that returns seconds. Compilation is always measured in wall-clock seconds.
  """

  def __init__(self, seconds_before: float = 0.0, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._start = self._now() - seconds_before
    self._compile_before = _compile_seconds
    self._times = {"prepare": 0.0, "train": 0.0, "evaluate": 0.0}

  @property
  def seconds(self) -> float:
    """Seconds since the start of the run, those before interruptions included."""
    return self._now() - self._start

  @seconds.setter
  def seconds(self, value: float) -> None:
    self._start = self._now() - value

  @property
  def times(self) -> dict[str, float]:
    """Seconds of this process by activity; "compile" overlaps with the other activities."""
    return {**self._times, "compile": _compile_seconds - self._compile_before}

  def include(self, other: "Stopwatch") -> None:
    """Adds the times of another stopwatch that was started later; compilation is already counted here."""
    for what, seconds in other._times.items():
      self._times[what] += seconds

  @contextlib.contextmanager
  def timing(self, what: str) -> Iterator[None]:
    """Context manager that adds the time spent inside it to one of `times`."""
    start, before = self._now(), sum(self._times.values())
    try:
      yield
    finally:  # the time of nested activities is counted for these alone
      self._times[what] += self._now() - start - (sum(self._times.values()) - before)


class Console:
  """Prints permanent lines and one progress line to standard output.

  Args:
    silent: Whether to print nothing, because another process prints.
  """

  def __init__(self, silent: bool = False) -> None:
    self._silent = silent
    self._live = sys.stdout.isatty()
    self._line_width = 0
    self._last_line = -float("inf")

  def say(self, text: str) -> None:
    """Prints a permanent line."""
    if self._silent:
      return
    if self._live and self._line_width:
      print("\r" + " " * self._line_width + "\r", end="")
      self._line_width = 0
    print(text, flush=True)

  def progress(self, text: str) -> None:
    """Overwrites the progress line on a terminal; without a terminal, prints a line at most every 10 seconds."""
    now = time.monotonic()
    if self._silent:
      return
    if self._live:
      print("\r" + text.ljust(self._line_width), end="", flush=True)
      self._line_width = len(text)
    elif now - self._last_line > 10:
      print(text, flush=True)
      self._last_line = now


class RunLog:
  """Context manager that writes the metrics of one replica to its folder.

  Args:
    workdir: Folder that receives metrics.jsonl (appended to by a resumed run) and tensorboard/.
    watch: Stopwatch that provides the time of each record.
    silent: Whether to write nothing, because another process writes.
  """

  def __init__(self, workdir: Path, watch: Stopwatch, silent: bool = False):
    self._watch = watch
    self._path, self._board = Path(os.devnull) if silent else workdir / "metrics.jsonl", None
    with storage(workdir):
      torn = _is_torn(self._path)
      self._file = self._path.open("a", encoding="utf-8")
      if not silent:
        (workdir / "tensorboard").mkdir(exist_ok=True)
    if torn:  # a full disk cut the last line short; start a new line, so that the next record stays readable
      self._file.write("\n")
    if not silent:
      # Not tensorboardX's SummaryWriter: a full disk kills its writer thread, and closing it then blocks forever.
      self._board = EventsWriter(str(workdir / "tensorboard" / "events"), filename_suffix=f".{os.getpid()}")
    self._last_train: tuple[int, float] | None = None
    self._step_seconds: list[float] = []
    self._rate: float | None = None

  def __enter__(self) -> "RunLog":
    return self

  def __exit__(self, *exception: object) -> None:
    with storage(self._path), contextlib.ExitStack() as stack:
      if self._board is not None:
        stack.callback(self._board.close)
      stack.callback(self._file.close)

  @property
  def seconds_a_step(self) -> float | None:
    """Median seconds of a training step in this process; None until two steps are logged."""
    return statistics.median(self._step_seconds) if self._step_seconds else None

  @property
  def images_per_second(self) -> float | None:
    """Training speed over the steps before the last logged one; None if unknown."""
    return self._rate

  def event(self, step: int, text: str) -> None:
    """Records a one-time event, such as a resume."""
    self._write({"kind": "event", "step": step, "text": text, "seconds": self._watch.seconds})

  def train(self, step: int, epoch: float, phase: str, metrics: Mapping[str, Any], *, batch_size: int) -> None:
    """Records the metrics of one training step.

    Args:
      step: Number of steps taken.
      epoch: Number of passes over the training rows.
      phase: Name of the phase.
      metrics: Scalars on the host, by name.
      batch_size: Number of rows in a global batch, for the speed.
    """
    now = self._watch.seconds
    self._rate = None
    if self._last_train is not None and step > self._last_train[0]:
      self._step_seconds.append((now - self._last_train[1]) / (step - self._last_train[0]))
      self._rate = batch_size / max(self._step_seconds[-1], 1e-9)
    self._last_train = (step, now)
    row = {"kind": "train", "step": step, "epoch": epoch, "phase": phase, **metrics, "seconds": now}
    if self._rate is not None:
      row["images_per_second"] = self._rate
    self._write(row)
    self._board_scalars("train", step, row)

  def forget_rate(self) -> None:
    """Excludes the time until the next step from the measured speed, because it includes other work."""
    self._last_train = None

  def evaluation(self, split: str, step: int, phase: str, accuracy: float, loss: float) -> None:
    """Records the evaluation of a split.

    Args:
      split: Name of the split.
      step: Number of steps taken.
      phase: Name of the phase.
      accuracy: Accuracy in [0, 1].
      loss: Mean loss.
    """
    row = {
      "kind": "eval",
      "split": split,
      "step": step,
      "phase": phase,
      "accuracy": accuracy,
      "loss": loss,
      "seconds": self._watch.seconds,
    }
    self._write(row)
    self._board_scalars(split, step, row)

  def _write(self, row: Mapping[str, Any]) -> None:
    with storage(self._path):
      self._file.write(json.dumps(row) + "\n")
      self._file.flush()

  def _board_scalars(self, group: str, step: int, row: Mapping[str, Any]) -> None:
    if self._board is None:
      return
    with storage(self._path.parent / "tensorboard"):
      for name, value in row.items():
        if isinstance(value, float):
          self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(f"{group}/{name}", value)))
      self._board.flush()


def _is_torn(path: Path) -> bool:
  """Returns whether the last line of a file is incomplete."""
  if not path.is_file() or not path.stat().st_size:
    return False
  with path.open("rb") as file:
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"
