"""Splits a dataset into cross-validation folds, and takes validation splits out of training splits."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.data.duplicates import components, image_ids
from fer_jax.runtime.errors import UserError

# Units that are never split across folds: the value of config.folds.by, and the plural noun for messages.
UNITS = {"images": "images", "groups": "groups", "subjects": "subjects", "one_subject_out": "subjects"}

_KEYS = ("by", "count", "seed", "examples", "digest", "classes", "fold", "notes")
_LINES = 5  # maximum number of notes on missing classes; more are summarized in one
_ATTEMPTS = 8  # number of attempts to place the units, each in another order
_PASSES = 20  # maximum number of passes that move units in an attempt; few are needed
_TINY = 1e-12  # smaller differences of the cost are rounding errors
_SIZE_WEIGHT = 0.03  # weight of a unit's share of all examples, relative to its share of a class


@dataclasses.dataclass(frozen=True)
class Folds:
  """A dataset of N examples in folds, each of which is the test split once.

  Attributes:
    by: Unit that is never split across folds, a key of UNITS.
    count: Number of folds.
    seed: Random seed with which the folds were made.
    number: Fold in which each example is tested, int32 [N].
    unit: Unit of each example, int32 [N]; examples of one unit are in one fold.
    class_names: Class names of the dataset.
    digest: SHA-256 of the labels and subjects, which identifies the dataset; it does not depend on the image size.
    notes: Remarks for the user: the classes that a fold lacks.
  """

  by: str
  count: int
  seed: int
  number: np.ndarray
  unit: np.ndarray
  class_names: tuple[str, ...]
  digest: str
  notes: tuple[str, ...] = ()

  def save(self, path: Path) -> None:
    """Writes the folds to a JSON file, atomically; raises UserError if it cannot be written."""
    content: dict[str, Any] = {"by": self.by, "count": self.count, "seed": self.seed, "examples": len(self.number)}
    content |= {"digest": self.digest, "classes": self.class_names, "fold": self.number.tolist(), "notes": self.notes}
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    part = path.with_name(f"{path.name}.part")
    try:
      part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
      os.replace(part, path)
    except OSError as error:
      with contextlib.suppress(OSError):
        part.unlink()
      raise UserError(f"{path}: cannot write the folds ({error.strerror})") from None


def make_folds(arrays: Arrays, by: str, count: int, seed: int) -> Folds:
  """Splits a whole dataset into folds with similar shares of every class; the dataset's own splits are ignored.

  With "images", the folds differ by at most one example, in each class and in total. For other units, the units are
  placed greedily and then moved for as long as this balances the classes. Compared with scikit-learn's
  StratifiedGroupKFold, the largest deviation of a class in a fold is the same or smaller (ten folds of people as in
  CK+: 2.7 instead of 4.0 images), and FER2013 takes 2 s instead of 50. The same arguments always give the same folds.

  Args:
    arrays: Dataset.
    by: Unit that is never split across folds: "images"; "groups" (frames of a sequence, and images that are equal pixel
      by pixel); "subjects" (people); or "one_subject_out", which makes one fold per person, in the order of their
      names.
    count: Number of folds; ignored for "one_subject_out".
    seed: Random seed.

  Raises:
    UserError: If `by` or `count` is out of range, the dataset names no subjects, or it has too few units.
  """
  if by not in UNITS:
    raise UserError(f"config.folds.by={by!r}: expected one of {', '.join(UNITS)}")
  unit = _units(arrays, by)
  units = int(unit.max(initial=-1)) + 1
  if by == "one_subject_out":
    count = units
    if count < 2:
      raise UserError(f"config.folds.by={by!r}: the dataset has {count} subjects; expected 2 or more")
  if count < 2:
    raise UserError(f"config.folds.count={count}: expected 2 or more")
  if units < count:
    raise UserError(f"config.folds.count={count}: the dataset has {units} {UNITS[by]}; expected at most as many folds")
  if by == "one_subject_out":
    number = unit
  else:
    number = _balance(_class_counts(arrays.label, unit), np.full(count, 1 / count), np.random.default_rng(seed))[unit]
  return _folds(arrays, by, count, seed, number, unit)


def load_folds(path: Path, arrays: Arrays) -> Folds:
  """Reads folds written by `Folds.save` for the same dataset; the image size may differ.

  Args:
    path: JSON file.
    arrays: Dataset.

  Raises:
    UserError: If the file contains no folds, or folds of another dataset; the message names the difference.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); expected a splits.json written by a run") from None
  except ValueError:
    content = None
  _check_content(path, content)
  for name, found, expected in (
    ("examples", content["examples"], len(arrays)),
    ("classes", content["classes"], list(arrays.class_names)),
    ("labels or subjects", content["digest"], _digest(arrays)),
  ):
    if found != expected:
      figures = "" if name == "labels or subjects" else f": {found} in the file, {expected} here"
      raise UserError(f"{path} has folds of another dataset: the {name} differ{figures}; expected folds of this one")
  number, by = np.array(content["fold"], np.int32), content["by"]
  unit = _units(arrays, by)
  # More distinct (subject, fold) pairs than subjects: a subject is in two folds.
  if UNITS[by] == "subjects" and len(np.unique(np.stack([unit, number]), axis=1).T) > unit.max() + 1:
    raise UserError(f"{path}: a subject is in two folds; by={by!r} requires one fold per subject")
  return _folds(arrays, by, content["count"], content["seed"], number, unit)


def for_fold(arrays: Arrays, folds: Folds, number: int, validation_share: float, seed: int) -> Arrays:
  """Returns the dataset with one fold as its test split and the other folds as validation and training splits.

  The validation split is stratified and keeps the units of the folds whole. With folds by subjects, no person is in
  both validation and training. The dataset's own splits are ignored.

  Args:
    arrays: Dataset.
    folds: Folds of this dataset.
    number: Number of the test fold, from 0.
    validation_share: Share of the examples outside the fold, between 0 and 1; each class keeps at least one unit in
      training.
    seed: Random seed of the validation split, combined with the number of the fold.

  Returns:
    The dataset with a new `split` and a note on it.

  Raises:
    UserError: If there is no such fold, the share is out of range, or too few units remain for a validation split.
  """
  if not 0 <= number < folds.count:
    raise UserError(f"config.folds.number={number}: expected 0 to {folds.count - 1}, there are {folds.count} folds")
  split = _fold_splits(arrays, folds, number, validation_share, seed)
  counts = {name: int(np.sum(split == name)) for name in ("train", "validation", "test")}
  note = (
    f"fold {number} of {folds.count} (numbered from 0), by {UNITS[folds.by]}, seed {folds.seed}: {counts['test']} "
    f"examples form the test split; {counts['validation']} of the others, also by {UNITS[folds.by]} (seed {seed}), "
    f"form the validation split, and {counts['train']} the training split"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def epoch_rows(arrays: Arrays, folds: Folds, validation_share: float, seed: int, rows: np.ndarray | None = None) -> int:
  """Returns the number of training rows of a fold: the mean over all folds, rounded. See `for_fold`.

  Args:
    arrays: Dataset of N examples.
    folds: Folds of this dataset.
    validation_share: Share of the examples outside a fold that is used for validation.
    seed: Random seed of the validation splits.
    rows: Number of training rows that each example becomes, int [N]; None for one row each.
  """
  rows = np.ones(len(arrays), np.int64) if rows is None else rows
  splits = (_fold_splits(arrays, folds, number, validation_share, seed) for number in range(folds.count))
  return round(sum(int(rows[split == "train"].sum()) for split in splits) / folds.count)


def with_validation(arrays: Arrays, fraction: float = 0.1, seed: int = 0) -> Arrays:
  """Takes a validation split out of the training split if the dataset has none.

  The validation split is stratified: it has about `fraction` of each class, at least one group of a class that has two
  or more, and never a whole class. Groups are kept whole. The same arguments always select the same examples.

  Args:
    arrays: Dataset; returned unchanged if it has a validation split.
    fraction: Share of the training split, between 0 and 1.
    seed: Random seed.

  Returns:
    The dataset with a new `split` and a note on it.

  Raises:
    UserError: If `fraction` is out of range, or the training split is too small.
  """
  _check_share(fraction)
  if len(arrays.rows("validation")):
    return arrays
  train = arrays.rows("train")
  chosen = _hold_out(arrays.label[train], arrays.group[train], fraction, np.random.default_rng(seed))
  if not chosen.any():
    raise UserError(f"the training split ({len(train)} examples) is too small to take a validation split from")
  # A str dtype has a fixed width: "validation" needs ten characters.
  split = arrays.split.astype(np.array(["validation"]).dtype)
  split[train[chosen]] = "validation"
  note = (
    f"the dataset has no validation split: {chosen.sum()} of its {len(train)} training examples, stratified "
    f"by class, serve as one (seed {seed})"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def _check_share(share: float) -> None:
  """Raises UserError unless a share is between 0 and 1."""
  if not 0 < share < 1:
    raise UserError(f"config.data.validation_share={share}: expected a share between 0 and 1")


def _units(arrays: Arrays, by: str) -> np.ndarray:
  """Numbers the units that are kept whole, int32 [N]."""
  if by == "images":
    return np.arange(len(arrays), dtype=np.int32)
  if by == "groups":
    group, image_id = np.unique(arrays.group, return_inverse=True)[1], image_ids(arrays)
    groups = int(np.max(group, initial=-1)) + 1
    nodes = groups + int(np.max(image_id, initial=-1)) + 1
    # Edges between groups and images: groups that share an equal image become one unit.
    joined = components(group, groups + image_id, nodes)[group]
    return np.unique(joined, return_inverse=True)[1].astype(np.int32)
  unnamed = int(np.sum(arrays.subject == ""))
  if unnamed:
    problem = (
      "names no subjects" if unnamed == len(arrays) else f"names no subject for {unnamed} of {len(arrays)} examples"
    )
    raise UserError(f"config.folds.by={by!r}: the dataset {problem}; use 'images' or 'groups'")
  return np.unique(arrays.subject, return_inverse=True)[1].astype(np.int32)


def _class_counts(label: np.ndarray, unit: np.ndarray) -> np.ndarray:
  """Counts the examples of each class in each unit, int64 [U, K]."""
  classes, column = np.unique(label, return_inverse=True)
  counts = np.zeros((int(unit.max(initial=-1)) + 1, len(classes)), np.int64)
  np.add.at(counts, (unit, column), 1)
  return counts


def _balance(counts: np.ndarray, share: np.ndarray, rng: np.random.Generator, fixed: Sequence[int] = ()) -> np.ndarray:
  """Assigns units to parts so that each part has about its share of every class, and of all examples.

  Minimizes the sum over parts and classes of (share of the class in the part)^2 / (target share of the part). Units of
  several examples are placed one by one and then moved; this is tried in several orders, heavy units first. Units of a
  single example are placed last and fill the gaps.

  Args:
    counts: Number of examples of each class in each unit, int [U, K].
    share: Target share of each part, float [P], summing to 1.
    rng: Random generator of the orders.
    fixed: Units that are assigned to part 0 and never moved.

  Returns:
    Part of each unit, int32 [U]; no part is empty if the shares are equal and there are enough units.
  """
  size = counts.sum(axis=1)
  # [U, K + 1]: a unit's share of each class and, as a weak extra class, of all examples.
  weight = np.column_stack([counts / counts.sum(axis=0), _SIZE_WEIGHT * size / size.sum()])
  start = np.full(len(counts), -1)
  start[list(fixed)] = 0
  large, single = (np.flatnonzero((start < 0) & those) for those in (size > 1, size == 1))
  best, best_cost = start, np.inf
  for attempt in range(_ATTEMPTS):
    # held [P, K + 1]: the sum of the weights in each part.
    part, held = start.copy(), np.zeros((len(share), weight.shape[1]))
    held[0] = weight[part == 0].sum(axis=0)
    order = _heavy_first(weight[large].sum(axis=1), rng, noise=0.5 if attempt else 0.0)
    for _ in range(_PASSES):
      if not _place(large[order], weight, share, part, held):
        break
    cost = float((held**2).sum(axis=1) @ (1 / share))
    if cost < best_cost - _TINY:
      best, best_cost, best_held = part, cost, held
  _place(single[_heavy_first(weight[single].sum(axis=1), rng)], weight, share, best, best_held)
  return best.astype(np.int32)


def _heavy_first(weight: np.ndarray, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
  """Returns positions by falling weight, int [U], each weight times 1 +- noise; equal weights are in random order."""
  shuffle = rng.permutation(len(weight))
  return shuffle[np.argsort(-weight[shuffle] * rng.uniform(1 - noise, 1 + noise, len(weight)), kind="stable")]


def _place(units: np.ndarray, weight: np.ndarray, share: np.ndarray, part: np.ndarray, held: np.ndarray) -> bool:
  """Moves each unit to the part with the lowest cost, and returns whether any unit was placed or moved.

  Updates `part`, int [U] (-1: not placed yet), and `held`, float [P, K + 1], the sum of the weights in each part.
  """
  moved = False
  for unit in units:
    before = part[unit]
    if before >= 0:
      held[before] -= weight[unit]
    # Half of the increase of the cost: ((h + w)^2 - h^2) / 2 = (h + w / 2) w, summed over classes. [P]
    cost = (held + weight[unit] / 2) @ weight[unit] / share
    cheapest = cost.argmin()
    if before < 0 or cost[cheapest] < cost[before] - _TINY:
      part[unit], moved = cheapest, True
    held[part[unit]] += weight[unit]
  return moved


def _hold_out(label: np.ndarray, unit: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  """Chooses whole units with about a share of each class, bool [N]; all False if no class can spare a unit."""
  names, unit_index = np.unique(unit, return_inverse=True)
  shuffle = rng.permutation(len(names))
  counts = _class_counts(label, shuffle[unit_index])
  # The largest unit of each class is fixed in training, so every class has training examples.
  largest = np.unique(counts.argmax(axis=0)) if len(counts) else np.empty(0, int)
  chosen = _balance(counts, np.array([1 - share, share]), rng, fixed=largest.tolist()) == 1
  for column in range(counts.shape[1]):
    holders = np.flatnonzero(counts[:, column])
    if chosen[holders].any():
      continue
    # No unit of this class was chosen: add the smallest one whose classes all have another unit in training.
    spare = (counts[~chosen] > 0).sum(axis=0) > 1
    candidates = [u for u in holders if spare[counts[u] > 0].all()]
    if candidates:
      chosen[min(candidates, key=lambda u: counts[u].sum())] = True
  return chosen[shuffle[unit_index]]


def _fold_splits(arrays: Arrays, folds: Folds, number: int, share: float, seed: int) -> np.ndarray:
  """Returns the split of every example, str [N], with one fold as the test split."""
  _check_share(share)
  rest = np.flatnonzero(folds.number != number)
  chosen = _hold_out(arrays.label[rest], folds.unit[rest], share, np.random.default_rng((seed, number)))
  if not chosen.any():
    raise UserError(
      f"config.folds.number={number}: the {len(rest)} examples outside the fold have too few {UNITS[folds.by]} "
      "for a validation split; use more data, or other folds"
    )
  split = np.full(len(arrays), "test", dtype="<U10")
  split[rest] = np.where(chosen, "validation", "train")
  return split


def _folds(arrays: Arrays, by: str, count: int, seed: int, number: np.ndarray, unit: np.ndarray) -> Folds:
  """Returns the folds with the digest of the dataset and the notes on missing classes."""
  notes = _missing(arrays, number, count)
  return Folds(by, count, seed, number, unit, arrays.class_names, _digest(arrays), notes)


def _missing(arrays: Arrays, number: np.ndarray, count: int) -> tuple[str, ...]:
  """Returns notes on the classes that a fold lacks in its test or training part but the dataset has."""
  # Number of test examples of each class in each fold, [count, K].
  tested = np.zeros((count, arrays.num_classes), np.int64)
  np.add.at(tested, (number, arrays.label), 1)
  total = tested.sum(axis=0)
  notes: list[str] = []
  for side, lacks in (("test", (tested == 0) & (total > 0)), ("training", (tested == total) & (total > 0))):
    lines = [f"fold {f} has no {arrays.class_names[k]} in its {side} part" for f, k in np.argwhere(lacks).tolist()]
    if len(lines) > _LINES:
      folds = ", ".join(f"{arrays.class_names[k]} in {lacks[:, k].sum()}" for k in np.flatnonzero(lacks.any(axis=0)))
      lines = [f"{lacks.any(axis=1).sum()} of {count} folds lack a class in their {side} part: {folds}"]
    notes += lines
  return tuple(notes)


def _digest(arrays: Arrays) -> str:
  """Returns the SHA-256 of a dataset's labels and subjects, in order."""
  content = json.dumps([arrays.label.tolist(), arrays.subject.tolist()])
  return hashlib.sha256(content.encode()).hexdigest()


def _check_content(path: Path, content: Any) -> None:
  """Raises UserError unless the content of a file is a set of folds, of any dataset."""

  def fail(fault: str) -> UserError:
    return UserError(f"{path}: {fault}; expected a splits.json written by a run")

  if not isinstance(content, dict):
    raise fail("not JSON, or not a set of folds")
  missing = [key for key in _KEYS if key not in content]
  if missing:
    raise fail(f"{missing[0]!r} is missing")
  fold, count = content["fold"], content["count"]
  if content["by"] not in list(UNITS):
    raise fail(f"by={content['by']!r} is not one of {', '.join(UNITS)}")
  if not isinstance(content["seed"], int) or not isinstance(count, int) or count < 2:
    raise fail("count and seed must be whole numbers, and count 2 or more")
  if not isinstance(fold, list) or len(fold) != content["examples"]:
    raise fail(f"'fold' is not a list of {content['examples']} numbers")
  if any(type(number) is not int for number in fold) or set(fold) != set(range(count)):
    raise fail(f"'fold' must number {count} folds from 0 to {count - 1}, each with an example")
