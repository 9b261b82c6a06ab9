"""Cross-validation folds or seeds of one config as replicas of one run: their data, and how many train together."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fer_jax.config.settings import Settings
from fer_jax.data import arrays as arrays_lib
from fer_jax.data import duplicates, expansion, splits
from fer_jax.data.arrays import Arrays
from fer_jax.data.splits import Folds
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import free_memory

_SPARE = 0.9  # usable share of the free memory; the memory estimate of a program ignores allocator fragmentation


@dataclasses.dataclass(frozen=True)
class Replica:
  """One of several runs of the same config, with its own seed and fold; equal to training that seed and fold alone.

  Attributes:
    name: Name of the replica's folder in the run folder; "" if it is the only replica.
    seed: Random seed of parameters, data order and augmentation.
    fold: Index of the fold that is the test split; None with the dataset's own splits.
    arrays: Dataset with the splits of this replica.
  """

  name: str
  seed: int
  fold: int | None
  arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Plan:
  """The replicas of a run.

  Attributes:
    replicas: Replicas in order, at least one.
    folds: Cross-validation folds of the dataset; None with the dataset's own splits.
    epoch_rows: Number of training rows in an epoch, augmented copies included. With folds it is the mean over the
      folds, so that all replicas take the same number of steps.
  """

  replicas: tuple[Replica, ...]
  folds: Folds | None
  epoch_rows: int


def plan(settings: Settings) -> Plan:
  """Loads the dataset and splits it for every replica of a run.

  Args:
    settings: Settings of the run.

  Returns:
    Replicas of the run, which share one copy of the images.

  Raises:
    UserError: The dataset or its splits do not fit the config.
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
    raise UserError(f"{data.name} has no test split: choose folds, for example with --config.folds.by=subjects")
  names = _names("seed", [seed for seed, _ in divided])
  finish = _finishing(settings, arrays, arrays.rows("train"))
  replicas = tuple(
    Replica(name, seed, None, finish(its_own)) for name, (seed, its_own) in zip(names, divided, strict=True)
  )
  return Plan(replicas, None, len(replicas[0].arrays.rows("train")))


def _folded(settings: Settings, arrays: Arrays) -> Plan:
  """Returns the plan of a cross-validation run: one replica per fold."""
  wanted, share, protocol = settings.folds, settings.data.validation_share, settings.expansion.protocol
  # The paper's protocol expands the dataset before the folds are made; the honest one afterwards, in `_finishing`.
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
  """Returns a function that completes a dataset after it was split: it drops duplicates and adds augmented copies.

  The copies are made once and all replicas share the images.

  Args:
    settings: Settings of the run.
    arrays: Dataset with any splits.
    rows: Rows that may be in training, int [n]; None for all.
  """
  protocol = settings.expansion.protocol
  whole = expansion.expand(arrays, settings.expansion, rows) if protocol == "honest" else arrays
  image_id = duplicates.image_ids(whole) if protocol else None

  def finish(divided: Arrays) -> Arrays:
    if settings.data.drop == "train_duplicates":
      divided = duplicates.without_train_duplicates(divided)
    if protocol == "honest":
      divided = expansion.with_training_copies(divided, whole)
    return divided if image_id is None else expansion.with_notes(divided, settings.expansion, image_id)

  return finish


def _names(kind: str, numbers: Sequence[int]) -> list[str]:
  """Returns folder names that sort in numeric order; [""] for a single replica, which needs no subfolder."""
  if len(numbers) == 1:
    return [""]
  width = len(str(max(numbers)))
  return [f"{kind}_{number:0{width}d}" for number in numbers]


class Trial(Protocol):
  """A step of several replicas together, for measuring memory and speed."""

  def memory(self) -> int:
    """Compiles the step; returns the memory it needs on a device in bytes, 0 if unknown."""

  def seconds(self) -> float:
    """Runs a few steps; returns the seconds per step."""


class Choice(NamedTuple):
  """Number of replicas that train together.

  Attributes:
    strategy: Execution on one device: "loop" (one replica per device at a time) or "vmap" (several).
    together: Number of replicas that train together, over all devices.
    reason: Explanation of the choice, for the report.
  """

  strategy: str
  together: int
  reason: str


def choose(strategy: str, count: int, devices: Sequence[Any], try_out: Callable[[int], Trial]) -> Choice:
  """Chooses how many replicas train together.

  Args:
    strategy: Value of `config.replica_strategy`.
    count: Number of replicas.
    devices: Devices that share the replicas.
    try_out: Function that returns a trial of the given number of replicas together.

  Returns:
    Choice with its reason. Strategy "vmap" still yields "loop" if a device has room for only one replica.
  """
  by_turns = min(count, len(devices))
  # With at most one replica per device there is nothing to batch.
  if strategy == "loop" or count <= len(devices):
    return Choice("loop", by_turns, "one to a device" if count <= len(devices) else "as configured")
  together, trial, reason = _fitting(count, devices, try_out)
  if trial is None:
    return Choice("loop", by_turns, reason)
  if strategy == "vmap":
    return Choice("vmap", together, reason or "as configured")
  # Compared per replica: the two trials run different numbers of replicas.
  in_turn, beside = try_out(by_turns).seconds() / by_turns, trial.seconds() / together
  measured = f"a step of one replica takes {1e3 * in_turn:.1f} ms with loop and {1e3 * beside:.1f} ms with vmap"
  if in_turn <= beside:
    return Choice("loop", by_turns, measured)
  return Choice("vmap", together, "; ".join(part for part in (measured, reason) if part))


def _fitting(count: int, devices: Sequence[Any], try_out: Callable[[int], Trial]) -> tuple[int, Trial | None, str]:
  """Finds the largest number of replicas whose step fits in the device memory.

  Args:
    count: Number of replicas.
    devices: Devices that share the replicas.
    try_out: Function that returns a trial of the given number of replicas together.

  Returns:
    Number of replicas, their trial (None if not even two fit on a device), and the reason if it is less than `count`.
  """
  together, reason = count, ""
  while together > len(devices):
    trial = try_out(together)
    needed, free = trial.memory(), _SPARE * free_memory(devices[0])
    if needed <= free:
      return together, trial, reason
    # Memory grows about linearly with the replicas, which bounds the number that fits; but always try at least one
    # less per device. Then spread the replicas evenly over the number of waves that this bound requires.
    most = max(min(int(together * free / needed), together - len(devices)), 1)
    fewer = math.ceil(count / math.ceil(count / most))
    reason = (
      f"{together} together would take {needed / 2**30:.2g} GiB on a device with {free / 2**30:.2g} GiB free: "
      f"{fewer} at a time"
    )
    together = fewer
  return together, None, reason


def waves(replicas: Sequence[Replica], together: int) -> list[tuple[Replica, ...]]:
  """Returns the replicas in order, in groups of `together` that train together; the last may be smaller."""
  return [tuple(replicas[start : start + together]) for start in range(0, len(replicas), together)]
