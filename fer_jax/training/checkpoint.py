"""Checkpoints of the training state, the data position and the progress. The only file that imports orbax."""

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

from fer_jax.runtime import processes
from fer_jax.runtime.errors import Failure, UserError, unwritable
from fer_jax.runtime.parallel import replicate_globally
from fer_jax.training.step import TrainState

_NOT_MEASURED = -1.0
_OLD_ITEM = "clock"  # item of a checkpoint that version 0.1 wrote in place of "progress"


@dataclasses.dataclass
class Progress:
  """Progress of a run; saved next to the training state.

  Attributes:
    phase: Index of the current phase.
    phase_step: Number of steps taken in the phase.
    step: Number of steps taken in total.
    seconds: Seconds spent so far, summed over all processes that resumed the run.
    phase_seconds: Value of `seconds` at the start of the phase.
    best_accuracy: Best validation accuracy so far; -1 before the first evaluation.
    best_step: Step of the best accuracy, the latest in case of a tie; -1 before the first evaluation.
    evals_without_improvement: Number of evaluations without improvement in this phase.
    phase_best: Best score of this phase (larger is better, see `Phase.score`); None before the first evaluation.
    lr_scale: Factor of the learning rate, the product of the plateau reductions in this phase.
  """

  phase: int = 0
  phase_step: int = 0
  step: int = 0
  seconds: float = 0.0
  phase_seconds: float = 0.0
  best_accuracy: float = _NOT_MEASURED
  best_step: int = -1
  evals_without_improvement: int = 0
  phase_best: float | None = None
  lr_scale: float = 1.0


class Checkpoints:
  """Context manager for the checkpoints of a run; keeps the newest two and the best, and writes in the background.

  Leaving the context blocks until all writes are finished. In a multi-process run every method is a collective
  operation: all processes call it with the same state. Each process writes a part of the state, and each reads all of
  it, so a run may resume with a different number of processes.

  Args:
    folder: Folder of the checkpoints; created if absent.
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
    if error is not None and processes.is_peer_loss(error):
      return  # the pending write needs the lost process and would never finish
    try:
      with self._writing():
        self._manager.close()
    except UserError:
      if not isinstance(error, UserError):  # otherwise the earlier error is the cause; do not replace it
        raise

  def save(
    self, state: TrainState, iterator: grain.DatasetIterator, progress: Progress, accuracy: float | None
  ) -> None:
    """Saves a checkpoint of the current step. Call it before the next batch is taken.

    Args:
      state: Training state.
      iterator: Iterator of the training data; its position is saved.
      progress: Progress of the run.
      accuracy: Validation accuracy at this step, or None if it was not evaluated; selects the best checkpoint.

    Raises:
      Failure: This checkpoint or the previous one cannot be written.
    """
    with self._writing():
      self._save(state, iterator, progress, accuracy)

  def _save(
    self, state: TrainState, iterator: grain.DatasetIterator, progress: Progress, accuracy: float | None
  ) -> None:
    if progress.step in self._manager.all_steps():
      # Saved before, without an accuracy or by a stop signal: only a checkpoint with an accuracy replaces it.
      if accuracy is None:
        return
      self._manager.wait_until_finished()  # a checkpoint cannot be deleted while it is being written
      self._manager.delete(progress.step)
    # Copied: on a CPU the background writer would otherwise read device buffers that the next steps may reuse.
    state = jax.tree.map(np.array, state)
    position, counted = iterator.get_state(), dataclasses.asdict(progress)
    checksums = _checksums(state, position, counted)
    # Data-parallel processes must have equal states. Floating-point results differ between kinds of machines.
    if others := processes.differing(" ".join(f"{checksums[each.name]:x}" for each in dataclasses.fields(state))):
      raise Failure(
        f"process {others[0]} does not have the state of process 0 at step {progress.step}: different kinds of "
        "machines compute differently; use identical machines"
      )
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state if processes.count() == 1 else replicate_globally(state)),
      # Not grain's checkpoint handler, which writes one file per process: all processes are at the same batch.
      data=ocp.args.JsonSave(position),
      progress=ocp.args.JsonSave(counted),
      checksums=ocp.args.JsonSave(checksums),
    )
    metrics = {"accuracy": _NOT_MEASURED if accuracy is None else accuracy}
    self._manager.save(progress.step, args=arguments, metrics=metrics)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Context manager that converts errors of this write, or of the previous background write, into a `Failure`."""
    try:
      yield
    except (UserError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:  # orbax has no common base class for errors of the disk
      if processes.is_peer_loss(error):
        raise
      said = str(error)
      # A full disk is reported as RESOURCE_EXHAUSTED.
      reason = os.strerror(errno.ENOSPC) if "RESOURCE_EXHAUSTED" in said else (said.splitlines() or [repr(error)])[0]
      raise unwritable(f"{self._folder}: a checkpoint", reason[:200]) from error

  def restore_newest(
    self, state_for: Callable[[Progress], TrainState], iterator: grain.DatasetIterator, warn: Callable[[str], None]
  ) -> tuple[TrainState, Progress] | None:
    """Restores the newest readable checkpoint, with the position of the iterator; removes newer, damaged ones.

    Args:
      state_for: Function that returns the shapes of the state for a progress; phases differ in their optimiser state.
      iterator: Iterator of the training data; set to the saved position.
      warn: Function that is called with a message about each damaged checkpoint.

    Returns:
      State and progress, or None if there is no checkpoint.

    Raises:
      UserError: All checkpoints are damaged, or an earlier version of fer_jax wrote them.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if any((self._folder / str(step) / _OLD_ITEM).is_dir() for step in steps):
      raise UserError(
        f"{self._folder}: checkpoints of fer_jax 0.1, which this version cannot resume; finish the run with "
        "fer_jax 0.1, or move the folder away to start from step 0"
      )
    for step in steps:
      try:
        state, progress, position = processes.everywhere(functools.partial(self._read, step, state_for))
      except Exception as error:  # orbax has no common base class for errors of damaged files
        if processes.is_peer_loss(error):
          raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        warn(f"checkpoint {self._folder / str(step)} cannot be read and is skipped ({reason})")
        continue
      iterator.set_state(position)
      self._remove(steps[: steps.index(step)])  # the run will save under these step numbers again
      return state, progress
    if steps:
      raise UserError(
        f"{self._folder}: none of the checkpoints {steps} can be read; move the folder away to start from step 0"
      )
    return None

  def _read(
    self, step: int, state_for: Callable[[Progress], TrainState]
  ) -> tuple[TrainState, Progress, dict[str, Any]]:
    """Returns the state, the progress and the data position of a checkpoint; raises an exception if it is damaged."""
    progress, position = self._progress(step), self._json(step, "data")
    state = self.restore_state(step, state_for(progress))
    if self._json(step, "checksums") != _checksums(state, position, dataclasses.asdict(progress)):
      raise ValueError("its checksums differ")
    return state, progress, position

  def _remove(self, steps: Sequence[int]) -> None:
    """Deletes the folders of checkpoints and reloads the list of steps."""

    def remove() -> None:
      for step in steps:
        shutil.rmtree(self._folder / str(step), ignore_errors=True)

    processes.first(remove)
    self._manager.reload()

  def progress_by_step(self) -> dict[int, Progress]:
    """Returns the progress at all readable checkpoints, by step."""
    found = {}
    for step in self._manager.all_steps():
      with contextlib.suppress(Exception):  # restore_newest reports damaged checkpoints
        found[step] = self._progress(step)
    return found

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints after a step; -1 deletes all."""
    for later in [other for other in self._manager.all_steps() if other > step]:
      self._manager.delete(later)

  def restore_state(self, step: int, shapes: TrainState) -> TrainState:
    """Returns the state saved at a step.

    Args:
      step: Step of the checkpoint.
      shapes: State whose leaves have the saved shapes and dtypes.

    Returns:
      Saved state, with NumPy arrays.
    """
    with _reader() as reader:
      return reader.restore(_state_of(self._folder, step), args=ocp.args.StandardRestore(_to_fill(shapes)))

  def restore_variables(self, step: int) -> tuple[Any, Any]:
    """Returns (params, stats) of a checkpoint, as NumPy arrays; their moving averages if the phase keeps some.

    If one process cannot read the checkpoint, all processes raise an exception.
    """
    self._manager.wait_until_finished()
    return processes.everywhere(lambda: read_variables(self._folder, step))

  def _progress(self, step: int) -> Progress:
    return Progress(**self._json(step, "progress"))

  def _json(self, step: int, item: str) -> Any:
    return json.loads((self._folder / str(step) / item / "metadata").read_text(encoding="utf-8"))

  @property
  def newest_step(self) -> int | None:
    """Step of the newest checkpoint, or None."""
    return self._manager.latest_step()


def read_variables(folder: Path, step: int) -> tuple[Any, Any]:
  """Returns (params, stats) of a checkpoint, like `Checkpoints.restore_variables`, without modifying the folder.

  Args:
    folder: Folder of the checkpoints.
    step: Step of the checkpoint.
  """
  path = _state_of(folder, step)
  with _reader() as reader:
    state = reader.restore(path, args=ocp.args.StandardRestore(_to_fill(dict(reader.metadata(path)))))
  _expect_unchanged(folder / str(step) / "checksums" / "metadata", state)
  return TrainState(**{**state, "average": state.get("average") or ()}).variables


def silence_orbax() -> None:
  """Silences orbax's own logging of the errors it raises, for programs that report them in one line.

  Orbax logs errors from its threads. When a part of a checkpoint cannot be written or read, asyncio also logs the
  errors of the other parts, and tensorstore raises "Event loop is closed" because these can no longer be reported.
  """
  absl_logging.set_verbosity(absl_logging.FATAL)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  show = sys.unraisablehook

  def show_all_else(unraisable: "sys.UnraisableHookArgs") -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
      show(unraisable)

  sys.unraisablehook = show_all_else


class _Manager(ocp.CheckpointManager):
  """Orbax's manager without its check for a stop request; JAX counts these checks, and `processes` makes them."""

  def reached_preemption(self, step: int) -> bool:
    """Returns False."""
    del step
    return False


@contextlib.contextmanager
def _reader() -> Iterator[ocp.StandardCheckpointHandler]:
  """Yields a reader of states for this process alone; by default orbax synchronises all, which hangs if one fails."""
  alone = processes.index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=alone, active_processes={alone}, barrier_sync_key_prefix=f"reader_{alone}"
  )
  with contextlib.closing(ocp.StandardCheckpointHandler(multiprocessing_options=options)) as handler:
    yield handler


def _state_of(folder: Path, step: int) -> Path:
  return folder.absolute() / str(step) / "state"


def _to_fill(shapes: Any) -> Any:
  # NumPy arrays carry no sharding: the checkpoint may have been written by more devices than this process has.
  return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)


def _expect_unchanged(recorded: Path, state: Mapping[str, Any]) -> None:
  """Raises ValueError if the checksums of a state differ from the recorded ones; passes if none are recorded."""
  if recorded.exists():
    wanted = json.loads(recorded.read_text(encoding="utf-8"))
    changed = [part for part, tree in state.items() if _crc32(tree) != wanted.get(part, 0)]
    if changed:
      raise ValueError(f"{recorded.parent.parent}: the checksums of {', '.join(changed)} differ")


def _checksums(state: TrainState, position: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, int]:
  """Returns the CRC-32 of each part of a checkpoint; orbax's array format has no checksums of the contents."""
  parts = {each.name: _crc32(getattr(state, each.name)) for each in dataclasses.fields(state)}
  return parts | {
    name: zlib.crc32(json.dumps(of, sort_keys=True).encode())
    for name, of in (("position", position), ("progress", progress))
  }


def _crc32(tree: Any) -> int:
  """Returns the CRC-32 of all arrays of a tree and their names, independent of the container types of the tree."""
  found = 0
  named = [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in jax.tree.leaves_with_path(tree)]
  # Sorted by name, because container types differ in the order of their leaves (a restored state is nested dicts).
  for name, leaf in sorted(named, key=lambda each: each[0]):
    array = np.ascontiguousarray(leaf)
    found = zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), found))
  return found


def newest_common(saved: Sequence[Mapping[int, Progress]], waits: Callable[[Progress], bool]) -> list[int] | None:
  """Finds the newest checkpoints from which replicas that train together can resume together.

  A process that is killed while saving may leave some replicas without a checkpoint that the others have.

  Args:
    saved: Progress at the checkpoints of each replica, by step.
    waits: Function that returns whether a replica had stopped early and was idle until the end of its phase.

  Returns:
    Step of the checkpoint to resume from, for each replica; all have the same phase and phase step, except replicas
    that had stopped early, whose phase step may be smaller. None if there is no such set of checkpoints.
  """
  reached = {(progress.phase, progress.phase_step) for of_replica in saved for progress in of_replica.values()}
  for phase, phase_step in sorted(reached, reverse=True):
    found = [
      [
        step
        for step, progress in of_replica.items()
        if progress.phase == phase
        and (progress.phase_step == phase_step or (waits(progress) and progress.phase_step < phase_step))
      ]
      for of_replica in saved
    ]
    if all(found):
      return [max(steps) for steps in found]
  return None


def _forget_damaged_metrics(folder: Path) -> None:
  """Removes unreadable metrics files; orbax reads the metrics of all checkpoints when it opens a folder."""
  for file in folder.glob("*/metrics/metrics"):
    try:
      float(json.loads(file.read_text(encoding="utf-8"))["accuracy"])
    except (ValueError, KeyError, TypeError):
      shutil.rmtree(file.parent)


def _validation_accuracy(metrics: dict[str, float]) -> float:
  return metrics["accuracy"]
