"""Cross-validation folds or seeds of one config as replicas of one run, and their data."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fer_jax.config.settings import Settings
from fer_jax.data import arrays as arrays_lib
from fer_jax.data import duplicates, expansion, splits
from fer_jax.data.arrays import Arrays
from fer_jax.data.splits import Folds
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path


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
class ReplicaPlan:
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

  @functools.cached_property
  def image_id(self) -> np.ndarray:
    """Number of each example's distinct image, int32 [N], from `image_ids`; the splits have no effect."""
    return duplicates.image_ids(self.replicas[0].arrays)


def plan_replicas(settings: Settings) -> ReplicaPlan:
  """Loads the dataset and splits it for every replica of a run.

  Args:
    settings: Settings of the run.

  Returns:
    Replicas of the run, which share one copy of the images.

  Raises:
    UserError: The dataset or its splits do not fit the config.
  """
  data, wanted, protocol = settings.data, settings.folds, settings.expansion.protocol
  arrays = arrays_lib.load(
    data.name,
    data.data_dir or None,
    image_size=data.image_size or None,
    labels=data.labels,
    crop=data.crop,
    residence=data.residence,
  )
  # The paper's protocol expands the dataset before it is split; the honest one afterwards, in `_complete`.
  if protocol == "paper" and wanted.by:
    arrays = expansion.expand(arrays, settings.expansion)
  folds = _folds(settings, arrays) if wanted.by else None
  if folds is None:
    replicas, trained = _by_seed(settings, arrays), arrays.rows("train")
  else:
    replicas, trained = _by_fold(settings, arrays, folds), None
  replicas = _complete(settings, arrays, replicas, trained)
  if folds is None:
    return ReplicaPlan(replicas, None, len(replicas[0].arrays.rows("train")))
  copies = expansion.factors(arrays, settings.expansion) if protocol == "honest" else None
  epoch_rows = splits.epoch_rows(arrays, folds, data.validation_share, wanted.seed, copies)
  return ReplicaPlan(replicas, folds, epoch_rows)


def _folds(settings: Settings, arrays: Arrays) -> Folds:
  wanted = settings.folds
  if wanted.file:
    return splits.load_folds(local_path(wanted.file), arrays)
  return splits.make_folds(arrays, wanted.by, wanted.count, wanted.seed)


def _by_seed(settings: Settings, arrays: Arrays) -> tuple[Replica, ...]:
  """Returns one replica per seed, with the dataset's own splits."""
  for split in ("train", "test"):
    if not len(arrays.rows(split)):
      by = "subjects" if all(arrays.subject) else "images"
      raise UserError(
        f"{settings.data.name} has no {split} split: choose folds, for example with --config.folds.by={by}"
      )
  seeds = range(settings.seed, settings.seed + settings.replicas)
  return tuple(
    Replica(name, seed, None, splits.with_validation(arrays, settings.data.validation_share, seed))
    for name, seed in zip(_names("seed", seeds), seeds, strict=True)
  )


def _by_fold(settings: Settings, arrays: Arrays, folds: Folds) -> tuple[Replica, ...]:
  """Returns one replica per fold, from `folds.number` on."""
  wanted, share = settings.folds, settings.data.validation_share
  count = settings.replicas or folds.count - wanted.number
  numbers = range(wanted.number, wanted.number + count)
  if not count or numbers[-1] >= folds.count:
    raise UserError(
      f"config.folds.number={wanted.number} with config.replicas={settings.replicas}: there are {folds.count} folds, "
      f"0 to {folds.count - 1}"
    )
  return tuple(
    Replica(name, settings.seed + i, number, splits.for_fold(arrays, folds, number, share, wanted.seed))
    for i, (number, name) in enumerate(zip(numbers, _names("fold", numbers), strict=True))
  )


def _complete(
  settings: Settings, arrays: Arrays, replicas: Sequence[Replica], trained: np.ndarray | None
) -> tuple[Replica, ...]:
  """Returns the replicas after training duplicates were dropped and augmented copies were added.

  The copies are made once and all replicas share the images.

  Args:
    settings: Settings of the run.
    arrays: Dataset with any splits.
    replicas: Replicas whose datasets are split.
    trained: Rows that may be in training, int [n]; None for all.
  """
  protocol = settings.expansion.protocol
  whole = expansion.expand(arrays, settings.expansion, trained) if protocol == "honest" else arrays
  image_id = duplicates.image_ids(whole) if protocol else None
  completed = []
  for replica in replicas:
    its_own = replica.arrays
    if settings.data.drop == "train_duplicates":
      its_own = duplicates.without_train_duplicates(its_own)
    if protocol == "honest":
      its_own = expansion.with_training_copies(its_own, whole)
    if image_id is not None:
      its_own = expansion.with_notes(its_own, settings.expansion, image_id)
    completed.append(dataclasses.replace(replica, arrays=its_own))
  return tuple(completed)


def _names(kind: str, numbers: Sequence[int]) -> list[str]:
  """Returns folder names that sort in numeric order; [""] for a single replica, which needs no subfolder."""
  if len(numbers) == 1:
    return [""]
  width = len(str(max(numbers)))
  return [f"{kind}_{number:0{width}d}" for number in numbers]


def waves(replicas: Sequence[Replica], together: int) -> list[tuple[Replica, ...]]:
  """Returns the replicas in order, in groups of `together` that train together; the last may be smaller."""
  return [tuple(replicas[start : start + together]) for start in range(0, len(replicas), together)]
