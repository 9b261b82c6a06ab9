"""State, position of the data and clock, saved and restored as one. The only file that imports orbax."""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import os
import shutil
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers

from fer_jax import processes
from fer_jax.errors import Failure, UserError, unwritable
from fer_jax.parallel import of_all_processes
from fer_jax.step import TrainState

_NOT_MEASURED = -1.0


@dataclasses.dataclass
class Clock:
  """Where a run stands, beside its state.

  Attributes:
    phase: position of the current phase.
    phase_step: steps taken in it.
    step: steps taken in all.
    seconds: spent so far, over all the times the run was started.
    phase_seconds: `seconds` when the phase began.
    best_accuracy: the best validation accuracy, -1 before the first.
    best_step: the last step it was reached at, -1 before the first.
    worse: evaluations in this phase since it last improved.
    phase_best: the best of this phase by what it watches, the larger the better; None before the first.
    rate: what plateaus of this phase have left of the learning rate.
  """

  phase: int = 0
  phase_step: int = 0
  step: int = 0
  seconds: float = 0.0
  phase_seconds: float = 0.0
  best_accuracy: float = _NOT_MEASURED
  best_step: int = -1
  worse: int = 0
  phase_best: float | None = None
  rate: float = 1.0


class Checkpoints:
  """The checkpoints of a run: the newest two and the best one are kept, written in the background.

  Use it as a context manager: leaving waits for what is being written. Of several processes all have to call every
  method, with the same state: each writes a part of it, and all read the whole, however many there were.

  Args:
    folder: made when absent.
  """

  def __init__(self, folder: Path):
    policy = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(2),
        checkpoint_managers.BestN(get_metric_fn=_validation_accuracy, n=1, keep_checkpoints_without_metrics=False),
      ]
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, best_fn=_validation_accuracy)
    self._folder = folder.absolute()
    processes.first(lambda: _forget_damaged_metrics(self._folder))
    self._manager = _Manager(self._folder, options=options)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
  ) -> None:
    if error is not None and processes.lost(error):
      return  # what is being written would wait for the part of a process that is gone
    try:
      with self._writing():
        self._manager.close()
    except UserError:
      if not isinstance(error, UserError):  # else that one came first
        raise

  def save(self, state: TrainState, iterator: grain.DatasetIterator, clock: Clock, accuracy: float | None) -> None:
    """Saves under the clock's step; call it before the next batch is taken.

    Args:
      state: of training.
      iterator: the training data's; its position is saved.
      clock: where the run stands.
      accuracy: on the validation split at this very step, if it was measured; the best is kept by it.

    Raises:
      Failure: this checkpoint, or the one before, cannot be written.
    """
    with self._writing():
      self._save(state, iterator, clock, accuracy)

  def _save(self, state: TrainState, iterator: grain.DatasetIterator, clock: Clock, accuracy: float | None) -> None:
    if clock.step in self._manager.all_steps():
      if accuracy is None:
        return
      self._manager.wait_until_finished()  # what is still being written cannot be deleted
      self._manager.delete(clock.step)
    # A copy: on a CPU the writer would otherwise read the very buffers that the next steps may reuse.
    state = jax.tree.map(np.array, state)
    position, counted = iterator.get_state(), dataclasses.asdict(clock)
    checksums = _checksums(state, position, counted)
    if others := processes.differing(" ".join(f"{checksums[each.name]:x}" for each in dataclasses.fields(state))):
      raise Failure(
        f"process {others[0]} does not have the state of process 0 at step {clock.step}: machines of different "
        "kinds compute differently; take equal ones"
      )
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state if processes.count() == 1 else of_all_processes(state)),
      # Not by grain's own handler, which has a file for each process: all are at the same batch.
      data=ocp.args.JsonSave(position),
      clock=ocp.args.JsonSave(counted),
      checksums=ocp.args.JsonSave(checksums),
    )
    metrics = {"accuracy": _NOT_MEASURED if accuracy is None else accuracy}
    self._manager.save(clock.step, args=arguments, metrics=metrics)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns what a write, or one in the background before it, ran into, into one line."""
    try:
      yield
    except (UserError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:  # orbax names no common ancestor for what a disk refuses
      if processes.lost(error):
        raise
      said = str(error)
      reason = os.strerror(errno.ENOSPC) if "RESOURCE_EXHAUSTED" in said else (said.splitlines() or [repr(error)])[0]
      raise unwritable(f"{self._folder}: a checkpoint", reason[:200]) from error

  def restore_newest(
    self, state_for: Callable[[Clock], TrainState], iterator: grain.DatasetIterator, warn: Callable[[str], None]
  ) -> tuple[TrainState, Clock] | None:
    """Restores the newest checkpoint that can be read, and the iterator's position with it.

    Args:
      state_for: the shapes of the state at a clock (phases differ in their optimiser's state).
      iterator: set to the saved position.
      warn: told of each damaged checkpoint that is passed over and removed.

    Returns:
      the state and the clock; None where nothing was saved.

    Raises:
      UserError: every checkpoint is damaged.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        state, clock, position = processes.everywhere(functools.partial(self._read, step, state_for))
      except Exception as error:  # orbax names no common ancestor for what a damaged file raises
        if processes.lost(error):
          raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        warn(f"checkpoint {self._folder / str(step)} cannot be read and is passed over ({reason})")
        continue
      iterator.set_state(position)
      self._remove(steps[: steps.index(step)])  # their numbers must be free when the run gets there again
      return state, clock
    if steps:
      raise UserError(
        f"{self._folder}: none of the checkpoints {steps} can be read; move the folder away to start from step 0"
      )
    return None

  def _read(self, step: int, state_for: Callable[[Clock], TrainState]) -> tuple[TrainState, Clock, dict[str, Any]]:
    """Returns the state, the clock and the position in the data of a checkpoint; raises where it is damaged."""
    clock, position = self._clock(step), self._json(step, "data")
    state = self.restore_state(step, state_for(clock))
    if self._json(step, "checksums") != _checksums(state, position, dataclasses.asdict(clock)):
      raise ValueError("its checksums differ")
    return state, clock, position

  def _remove(self, steps: Sequence[int]) -> None:
    def remove() -> None:
      for step in steps:
        shutil.rmtree(self._folder / str(step), ignore_errors=True)

    processes.first(remove)
    self._manager.reload()

  def clocks(self) -> dict[int, Clock]:
    """Returns the clock of every checkpoint, by its step; those that cannot be read are left out."""
    found = {}
    for step in self._manager.all_steps():
      with contextlib.suppress(Exception):  # restore_newest says what is damaged
        found[step] = self._clock(step)
    return found

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints of later steps: all of them after -1."""
    for later in [other for other in self._manager.all_steps() if other > step]:
      self._manager.delete(later)

  def restore_state(self, step: int, shapes: TrainState) -> TrainState:
    """Returns the state saved at `step`, as NumPy arrays of the given shapes."""
    with _reader() as reader:
      return reader.restore(_state_of(self._folder, step), args=ocp.args.StandardRestore(_to_fill(shapes)))

  def restore_variables(self, step: int) -> tuple[Any, Any]:
    """Returns (params, stats) of a checkpoint of any phase, as NumPy arrays; the averages where some were kept.

    Where one process cannot read them, none can.
    """
    self._manager.wait_until_finished()
    return processes.everywhere(lambda: read_variables(self._folder, step))

  def _clock(self, step: int) -> Clock:
    return Clock(**self._json(step, "clock"))

  def _json(self, step: int, item: str) -> Any:
    return json.loads((self._folder / str(step) / item / "metadata").read_text(encoding="utf-8"))

  @property
  def newest_step(self) -> int | None:
    """The step of the newest checkpoint; None where there is none."""
    return self._manager.latest_step()


def read_variables(folder: Path, step: int) -> tuple[Any, Any]:
  """Returns (params, stats) of one checkpoint, as `Checkpoints.restore_variables`, and leaves the folder as it is.

  Args:
    folder: of the checkpoints.
    step: of the one.
  """
  path = _state_of(folder, step)
  with _reader() as reader:
    state = reader.restore(path, args=ocp.args.StandardRestore(_to_fill(dict(reader.metadata(path)))))
  _expect_unchanged(folder / str(step) / "checksums" / "metadata", state)
  return TrainState(**{**state, "average": state.get("average") or ()}).variables


def silence_orbax() -> None:
  """Keeps orbax from printing what it raises too, for a program that says it in one line.

  Its threads log it; where a part of a checkpoint cannot be written or read, asyncio complains about the others, and
  tensorstore about the event loop that they can no longer be reported to.
  """
  absl_logging.set_verbosity(absl_logging.FATAL)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  show = sys.unraisablehook

  def show_all_else(unraisable: "sys.UnraisableHookArgs") -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
      show(unraisable)

  sys.unraisablehook = show_all_else


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which does not ask whether to stop: JAX counts those questions, and `processes` asks them."""

  def reached_preemption(self, step: int) -> bool:
    """Says no."""
    del step
    return False


@contextlib.contextmanager
def _reader() -> Iterator[ocp.StandardCheckpointHandler]:
  """Yields what reads a state for this process alone: others may fail to, and would be waited for."""
  alone = processes.index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=alone, active_processes={alone}, barrier_sync_key_prefix=f"reader_{alone}"
  )
  with contextlib.closing(ocp.StandardCheckpointHandler(multiprocessing_options=options)) as handler:
    yield handler


def _state_of(folder: Path, step: int) -> Path:
  return folder.absolute() / str(step) / "state"


def _to_fill(shapes: Any) -> Any:
  # NumPy arrays have no devices: a checkpoint may have been written by more of them than there are here.
  return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)


def _expect_unchanged(recorded: Path, state: Mapping[str, Any]) -> None:
  """Raises ValueError where a state, of whose arrays there is a record, is another."""
  if recorded.exists():
    wanted = json.loads(recorded.read_text(encoding="utf-8"))
    changed = [part for part, tree in state.items() if _crc32(tree) != wanted.get(part, 0)]
    if changed:
      raise ValueError(f"{recorded.parent.parent}: the checksums of {', '.join(changed)} differ")


def _checksums(state: TrainState, position: Mapping[str, Any], clock: Mapping[str, Any]) -> dict[str, int]:
  """Returns CRC-32s of all that a checkpoint holds: the arrays' own format has none for their content."""
  parts = {each.name: _crc32(getattr(state, each.name)) for each in dataclasses.fields(state)}
  return parts | {
    name: zlib.crc32(json.dumps(of, sort_keys=True).encode()) for name, of in (("position", position), ("clock", clock))
  }


def _crc32(tree: Any) -> int:
  """Returns the CRC-32 of all arrays of a tree, with their names, whatever nodes it is made of."""
  found = 0
  named = [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in jax.tree.leaves_with_path(tree)]
  for name, leaf in sorted(named, key=lambda each: each[0]):
    array = np.ascontiguousarray(leaf)
    found = zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), found))
  return found


def newest_common(clocks: Sequence[Mapping[int, Clock]], waits: Callable[[Clock], bool]) -> list[int] | None:
  """Returns where trainings that take their steps together can go on together.

  A process that is killed while it saves leaves some trainings with a checkpoint that others lack.

  Args:
    clocks: of each training's checkpoints, by step.
    waits: whether a training had stopped in its phase, early, and only waits for the others to end it.

  Returns:
    a step for each training, all at the same place of the same phase, but for those that wait; None where
    there is no such place.
  """
  places = {(clock.phase, clock.phase_step) for of in clocks for clock in of.values()}
  for phase, phase_step in sorted(places, reverse=True):
    found = [
      [
        step
        for step, clock in of.items()
        if clock.phase == phase and (clock.phase_step == phase_step or (waits(clock) and clock.phase_step < phase_step))
      ]
      for of in clocks
    ]
    if all(found):
      return [max(steps) for steps in found]
  return None


def _forget_damaged_metrics(folder: Path) -> None:
  """Removes metrics that cannot be read: orbax reads those of all checkpoints when it opens a folder."""
  for file in folder.glob("*/metrics/metrics"):
    try:
      float(json.loads(file.read_text(encoding="utf-8"))["accuracy"])
    except (ValueError, KeyError, TypeError):
      shutil.rmtree(file.parent)


def _validation_accuracy(metrics: dict[str, float]) -> float:
  return metrics["accuracy"]
