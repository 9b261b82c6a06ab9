"""What a run says while it goes: lines on the console, metrics.jsonl, TensorBoard; and where its time went."""

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

from fer_jax.errors import storage

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compile_seconds = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
  global _compile_seconds  # noqa: PLW0603  jax.monitoring offers no per-run listener, and none can be removed
  if event == _COMPILE_EVENT:
    _compile_seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
  """How long something takes, and what its time is spent on.

  Args:
    seconds_before: that have passed already.
    now: Clock that counts the seconds. Those of compilation are wall-clock seconds whatever it is.
  """

  def __init__(self, seconds_before: float = 0.0, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._start = self._now() - seconds_before
    self._compile_before = _compile_seconds
    self._times = {"prepare": 0.0, "train": 0.0, "evaluate": 0.0}

  @property
  def seconds(self) -> float:
    """Seconds since the beginning, those before interruptions included."""
    return self._now() - self._start

  @seconds.setter
  def seconds(self, value: float) -> None:
    self._start = self._now() - value

  @property
  def times(self) -> dict[str, float]:
    """Seconds of this process by what they were spent on; `compile` is also part of the others."""
    return {**self._times, "compile": _compile_seconds - self._compile_before}

  def include(self, other: "Stopwatch") -> None:
    """Adds what another stopwatch, started after this one, has timed; its compilation is counted here already."""
    for what, seconds in other._times.items():
      self._times[what] += seconds

  @contextlib.contextmanager
  def timing(self, what: str) -> Iterator[None]:
    """Adds the time spent inside to one of `times`."""
    start, before = self._now(), sum(self._times.values())
    try:
      yield
    finally:  # what was timed inside is counted there alone
      self._times[what] += self._now() - start - (sum(self._times.values()) - before)


class Console:
  """Lines on standard output: some that stay, and one that tells the progress.

  Args:
    silent: say nothing: another process does.
  """

  def __init__(self, silent: bool = False) -> None:
    self._silent = silent
    self._live = sys.stdout.isatty()
    self._line_width = 0
    self._last_line = -float("inf")

  def say(self, text: str) -> None:
    """Prints a line that stays."""
    if self._silent:
      return
    if self._live and self._line_width:
      print("\r" + " " * self._line_width + "\r", end="")
      self._line_width = 0
    print(text, flush=True)

  def progress(self, text: str) -> None:
    """Rewrites the progress line of a terminal; elsewhere prints one now and then."""
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
  """What one training leaves in its folder; use it as a context manager.

  Args:
    workdir: gets metrics.jsonl (appended to, when a run is resumed) and tensorboard/.
    watch: tells the seconds of each record.
    silent: leave nothing: another process does.
  """

  def __init__(self, workdir: Path, watch: Stopwatch, silent: bool = False):
    self._watch = watch
    self._path, self._board = Path(os.devnull) if silent else workdir / "metrics.jsonl", None
    with storage(workdir):
      torn = _is_torn(self._path)
      self._file = self._path.open("a", encoding="utf-8")
      if not silent:
        (workdir / "tensorboard").mkdir(exist_ok=True)
    if torn:  # by a full disk: the next line is not to be lost with it
      self._file.write("\n")
    if not silent:
      # Not by the package's SummaryWriter: its thread dies of a full disk, and whoever then waits for it, forever.
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
    """The median time of a training step in this process; None before two were logged."""
    return statistics.median(self._step_seconds) if self._step_seconds else None

  @property
  def images_per_second(self) -> float | None:
    """Of the steps before the last one logged; None where that is not known."""
    return self._rate

  def event(self, step: int, text: str) -> None:
    """Records something that happened once."""
    self._write({"kind": "event", "step": step, "text": text, "seconds": self._watch.seconds})

  def train(self, step: int, epoch: float, phase: str, metrics: Mapping[str, Any], *, batch_size: int) -> None:
    """Records the metrics of one training step.

    Args:
      step: steps taken.
      epoch: passes over the training rows.
      phase: its name.
      metrics: host scalars by name.
      batch_size: rows of a global batch, for the rate.
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
    """Leaves the time until the next step out of images/s: something else was done in it."""
    self._last_train = None

  def evaluation(self, split: str, step: int, phase: str, accuracy: float, loss: float) -> None:
    """Records an evaluation of a split."""
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
  """Returns whether a file ends within a line."""
  if not path.is_file() or not path.stat().st_size:
    return False
  with path.open("rb") as file:
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"
