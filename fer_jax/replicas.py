"""Folds or seeds of one configuration as one run: which trainings there are, and how many go side by side."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fer_jax.data import arrays as arrays_lib
from fer_jax.data import audit, expansion, splits
from fer_jax.data.arrays import Arrays
from fer_jax.data.splits import Folds
from fer_jax.errors import UserError
from fer_jax.parallel import free_memory
from fer_jax.settings import Settings

_SPARE = 0.9  # of the free memory may be planned for; a program's own estimate leaves out the allocator's gaps


@dataclasses.dataclass(frozen=True)
class Replica:
  """One training of several: what the same configuration alone would be with this seed and fold.

  Attributes:
    name: of its folder within the run's; "" for a training that is the whole run.
    seed: of parameters, data order and augmentation.
    fold: that is its test split; None with the dataset's own splits.
    arrays: the dataset, divided for it.
  """

  name: str
  seed: int
  fold: int | None
  arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Plan:
  """The trainings of a run.

  Attributes:
    replicas: in order, at least one.
    folds: that the dataset is divided into; None with its own splits.
    epoch_rows: training rows, augmented copies included, that count as an epoch; of folds the mean, so that all take
      the same number of steps.
  """

  replicas: tuple[Replica, ...]
  folds: Folds | None
  epoch_rows: int


def plan(settings: Settings) -> Plan:
  """Loads the dataset and divides it for every training of a run.

  Raises:
    UserError: the dataset, or its division, is not as the config expects.
  """
  data = settings.data
  arrays = arrays_lib.load(
    data.name,
    data.data_dir or None,
    image_size=data.image_size or None,
    labels=data.labels,
    crop=data.crop,
    residence=data.residence,
  )
  if settings.folds.by:
    return _folded(settings, arrays)
  divided = [
    (settings.seed + i, splits.with_validation(arrays, data.validation_share, settings.seed + i))
    for i in range(settings.replicas)
  ]
  if not len(arrays.rows("test")):
    raise UserError(f"{data.name} has no test split of its own: divide it, for example with --config.folds.by=subjects")
  names = _names("seed", [seed for seed, _ in divided])
  finish = _finishing(settings, arrays, arrays.rows("train"))
  replicas = tuple(
    Replica(name, seed, None, finish(its_own)) for name, (seed, its_own) in zip(names, divided, strict=True)
  )
  return Plan(replicas, None, len(replicas[0].arrays.rows("train")))


def _folded(settings: Settings, arrays: Arrays) -> Plan:
  wanted, share, protocol = settings.folds, settings.data.validation_share, settings.expansion.protocol
  if protocol == "paper":
    arrays = expansion.expand(arrays, settings.expansion)
  if wanted.file:
    folds = splits.load_folds(Path(wanted.file).expanduser(), arrays)
  else:
    folds = splits.make_folds(arrays, wanted.by, wanted.count, wanted.seed)
  count = settings.replicas or folds.count - wanted.number
  numbers = range(wanted.number, wanted.number + count)
  if not count or numbers[-1] >= folds.count:
    raise UserError(
      f"config.folds.number={wanted.number} with config.replicas={settings.replicas}: there are {folds.count} folds, "
      f"0 to {folds.count - 1}"
    )
  finish = _finishing(settings, arrays)
  replicas = tuple(
    Replica(name, settings.seed + i, number, finish(splits.for_fold(arrays, folds, number, share, wanted.seed)))
    for i, (number, name) in enumerate(zip(numbers, _names("fold", numbers), strict=True))
  )
  rows = expansion.factors(arrays, settings.expansion) if protocol == "honest" else None
  return Plan(replicas, folds, splits.epoch_rows(arrays, folds, share, wanted.seed, rows))


def _finishing(settings: Settings, arrays: Arrays, rows: np.ndarray | None = None) -> Callable[[Arrays], Arrays]:
  """Returns what is done to a dataset once it is divided: pictures are left out, copies come in. Images are shared.

  Args:
    settings: of the run.
    arrays: the dataset, however it is divided.
    rows: that may be in training, int [n]; None for all.
  """
  protocol = settings.expansion.protocol
  whole = expansion.expand(arrays, settings.expansion, rows) if protocol == "honest" else arrays
  picture = audit.number_pictures(whole) if protocol else None

  def finish(divided: Arrays) -> Arrays:
    if settings.data.drop == "train_duplicates":
      divided = audit.without_train_duplicates(divided)
    if protocol == "honest":
      divided = expansion.with_training_copies(divided, whole)
    return divided if picture is None else expansion.with_notes(divided, settings.expansion, picture)

  return finish


def _names(kind: str, numbers: Sequence[int]) -> list[str]:
  """Names folders so that they sort as their numbers; a training that is alone needs none."""
  if len(numbers) == 1:
    return [""]
  width = len(str(max(numbers)))
  return [f"{kind}_{number:0{width}d}" for number in numbers]


class Trial(Protocol):
  """A step of several trainings side by side, on trial."""

  def memory(self) -> int:
    """Compiles the step; returns the bytes that it takes on a device, 0 where that is not known."""

  def seconds(self) -> float:
    """Takes a few steps; returns the seconds of one."""


class Choice(NamedTuple):
  """How many trainings go side by side.

  Attributes:
    strategy: "loop", a training to a device and the others after it, or "vmap".
    together: how many trainings take their steps together, over all devices.
    reason: in words.
  """

  strategy: str
  together: int
  reason: str


def choose(strategy: str, count: int, devices: Sequence[Any], try_out: Callable[[int], Trial]) -> Choice:
  """Decides how many trainings go side by side.

  Args:
    strategy: `config.replica_strategy`.
    count: of trainings.
    devices: that they are dealt over.
    try_out: makes a trial of so many together.
  """
  by_turns = min(count, len(devices))
  if strategy == "loop" or count <= len(devices):
    return Choice("loop", by_turns, "one to a device" if count <= len(devices) else "as configured")
  together, trial, reason = _fitting(count, devices, try_out)
  if trial is None:
    return Choice("loop", by_turns, reason)
  if strategy == "vmap":
    return Choice("vmap", together, reason or "as configured")
  in_turn, beside = try_out(by_turns).seconds() / by_turns, trial.seconds() / together
  measured = f"a step of one takes {1e3 * in_turn:.1f} ms in turn and {1e3 * beside:.1f} ms side by side"
  if in_turn <= beside:
    return Choice("loop", by_turns, measured)
  return Choice("vmap", together, "; ".join(part for part in (measured, reason) if part))


def _fitting(count: int, devices: Sequence[Any], try_out: Callable[[int], Trial]) -> tuple[int, Trial | None, str]:
  """Finds the most trainings that fit side by side, and says so where they are not all; no trial where none fit."""
  together, reason = count, ""
  while together > len(devices):
    trial = try_out(together)
    needed, free = trial.memory(), _SPARE * free_memory(devices[0])
    if needed <= free:
      return together, trial, reason
    # As many as the figure says, or one less on each device; then evenly over the turns that this takes.
    most = max(min(int(together * free / needed), together - len(devices)), 1)
    fewer = math.ceil(count / math.ceil(count / most))
    reason = (
      f"{together} side by side would take {needed / 2**30:.2g} GiB on a device, of which {free / 2**30:.2g} GiB are "
      f"free: {fewer} at a time"
    )
    together = fewer
  return together, None, reason


def waves(replicas: Sequence[Replica], together: int) -> list[tuple[Replica, ...]]:
  """Returns the trainings that go side by side, `together` at a time, in order."""
  return [tuple(replicas[start : start + together]) for start in range(0, len(replicas), together)]
