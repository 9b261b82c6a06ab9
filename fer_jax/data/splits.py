"""Divisions that a dataset does not bring itself: folds for cross-validation, a validation split."""

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
from fer_jax.data.audit import components, number_pictures
from fer_jax.errors import UserError

# What is never on both sides of a division, by the name that a user gives it, and how it is called.
UNITS = {"images": "images", "groups": "groups", "subjects": "subjects", "one_subject_out": "subjects"}

_KEYS = ("by", "count", "seed", "examples", "digest", "classes", "fold", "notes")
_LINES = 5  # of the notes on missing classes; more are summed up in one
_ATTEMPTS = 8  # to place the units, each in another order
_PASSES = 20  # over the units of an attempt, to move them; few are needed
_TINY = 1e-12  # differences of cost below are rounding
_SIZE_WEIGHT = 0.03  # of a unit's share of all examples, against its shares of the classes


@dataclasses.dataclass(frozen=True)
class Folds:
  """A dataset in parts, of which each in turn is the test split. Let N be its examples.

  Attributes:
    by: what is kept whole, one of UNITS.
    count: of folds.
    seed: that chose among the divisions.
    number: int32 [N], the fold in which each example is tested.
    unit: int32 [N]; examples with the same number are kept together.
    class_names: the dataset's.
    digest: of the labels and subjects, to know the dataset by; the size of the images is no part of it.
    notes: what a user should know: the classes that a fold lacks.
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
    """Writes the division to a JSON file, whole or not at all; raises UserError if it cannot be written."""
    values = (
      *(self.by, self.count, self.seed, len(self.number), self.digest, self.class_names),
      *(self.number.tolist(), self.notes),
    )
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in zip(_KEYS, values, strict=True))
    part = path.with_name(f"{path.name}.part")
    try:
      part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
      os.replace(part, path)
    except OSError as error:
      with contextlib.suppress(OSError):
        part.unlink()
      raise UserError(f"{path}: the folds cannot be written ({error.strerror})") from None


def make_folds(arrays: Arrays, by: str, count: int, seed: int) -> Folds:
  """Divides a whole dataset, whatever its own splits, into folds in which every class has its share.

  By "images" the folds differ by at most one example, of every class and in all. What is kept whole is otherwise
  placed greedily, then moved for as long as that evens the classes out. The same arguments always give the same folds.

  Args:
    arrays: the dataset.
    by: what is never in two folds: "images"; "groups" (frames of a sequence, and pictures that are equal pixel by
      pixel); "subjects" (people); "one_subject_out" makes a fold of every person, in the order of their names.
    count: of folds; of no account for "one_subject_out".
    seed: chooses among the divisions.

  Raises:
    UserError: `by` or `count` is out of range, or the dataset names no subjects or has too few units.
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
  """Reads the division that `Folds.save` wrote, of the same dataset; images may have another size.

  Raises:
    UserError: the file is none of folds, or is of another dataset; the message names what differs.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(
      f"{path}: cannot be read ({error.strerror}); expected a splits.json that a run has written"
    ) from None
  except ValueError:
    content = None
  _check_content(path, content)
  theirs = (content["examples"], content["classes"], content["digest"])
  ours = (len(arrays), list(arrays.class_names), _digest(arrays))
  for what, there, here in zip(("examples", "classes", "labels or subjects"), theirs, ours, strict=True):
    if there != here:
      figures = "" if what == "labels or subjects" else f": {there} in the file, {here} here"
      raise UserError(f"{path} divides another dataset: the {what} differ{figures}; expected the folds of this dataset")
  number, by = np.array(content["fold"], np.int32), content["by"]
  unit = _units(arrays, by)
  if UNITS[by] == "subjects" and len(np.unique(np.stack([unit, number]), axis=1).T) > unit.max() + 1:
    raise UserError(f"{path}: a subject stands in two folds; expected by={by!r} to keep each in one")
  return _folds(arrays, by, content["count"], content["seed"], number, unit)


def for_fold(arrays: Arrays, folds: Folds, number: int, validation_share: float, seed: int) -> Arrays:
  """Returns the dataset with one fold as its test split, and validation and training splits of the others.

  The validation split is stratified and keeps whole what the folds keep whole: with folds by subjects, nobody in it is
  in training. The dataset's own splits play no part.

  Args:
    arrays: the dataset.
    folds: of this dataset.
    number: of the fold, from 0.
    validation_share: of the examples outside the fold, between 0 and 1; a class keeps at least one unit in training.
    seed: chooses the validation examples, for each fold apart.

  Returns:
    The dataset with `split` changed and a note that says so.

  Raises:
    UserError: there is no such fold, the share is out of range, or too little is left to take it from.
  """
  if not 0 <= number < folds.count:
    raise UserError(f"config.folds.number={number}: expected 0 to {folds.count - 1}, there are {folds.count} folds")
  split = _fold_splits(arrays, folds, number, validation_share, seed)
  counts = {name: int(np.sum(split == name)) for name in ("train", "validation", "test")}
  note = (
    f"fold {number} of {folds.count} (the first is 0), by {UNITS[folds.by]}, seed {folds.seed}: {counts['test']} "
    f"examples are the test split; {counts['validation']} of the others, by {UNITS[folds.by]} too (seed {seed}), are "
    f"the validation split, and {counts['train']} the training split"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def epoch_rows(arrays: Arrays, folds: Folds, validation_share: float, seed: int, rows: np.ndarray | None = None) -> int:
  """Returns the number of training rows of a fold, rounded, in the mean of all folds; see `for_fold`.

  Args:
    arrays: the dataset.
    folds: of this dataset.
    validation_share: of the examples outside a fold.
    seed: chooses the validation examples.
    rows: of each example, int [N], how many rows it is in training; None for one of each.
  """
  rows = np.ones(len(arrays), np.int64) if rows is None else rows
  splits = (_fold_splits(arrays, folds, number, validation_share, seed) for number in range(folds.count))
  return round(sum(int(rows[split == "train"].sum()) for split in splits) / folds.count)


def with_validation(arrays: Arrays, fraction: float = 0.1, seed: int = 0) -> Arrays:
  """Takes a validation split out of the training split where a dataset has none.

  The share is stratified: close to `fraction` of each class, but at least one group of a class that has two, and
  never all. A group is never divided. The same arguments always choose the same examples.

  Args:
    arrays: a dataset; one that has a validation split is returned unchanged.
    fraction: the share of the training split to take, between 0 and 1.
    seed: chooses which examples.

  Returns:
    The dataset with `split` changed and a note that says so.

  Raises:
    UserError: if `fraction` is out of its range, or training data are too few to be divided.
  """
  _check_share(fraction)
  if len(arrays.rows("validation")):
    return arrays
  train = arrays.rows("train")
  chosen = _hold_out(arrays.label[train], arrays.group[train], fraction, np.random.default_rng(seed))
  if not chosen.any():
    raise UserError(f"the training split ({len(train)} examples) is too small to take a validation split from")
  split = arrays.split.astype(np.array(["validation"]).dtype)
  split[train[chosen]] = "validation"
  note = (
    f"the dataset has no validation split: {chosen.sum()} of its {len(train)} training examples, stratified "
    f"by class, serve as one (seed {seed})"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def _check_share(share: float) -> None:
  if not 0 < share < 1:
    raise UserError(f"config.data.validation_share={share}: expected a share between 0 and 1")


def _units(arrays: Arrays, by: str) -> np.ndarray:
  """Numbers what a division keeps whole, int32 [N]."""
  if by == "images":
    return np.arange(len(arrays), dtype=np.int32)
  if by == "groups":
    group, picture = np.unique(arrays.group, return_inverse=True)[1], number_pictures(arrays)
    groups = int(np.max(group, initial=-1)) + 1
    nodes = groups + int(np.max(picture, initial=-1)) + 1
    joined = components(group, groups + picture, nodes)[group]
    return np.unique(joined, return_inverse=True)[1].astype(np.int32)
  unnamed = int(np.sum(arrays.subject == ""))
  if unnamed:
    whom = (
      "names no subjects" if unnamed == len(arrays) else f"names no subject for {unnamed} of {len(arrays)} examples"
    )
    raise UserError(f"config.folds.by={by!r}: the dataset {whom}; images and groups are what it can be divided by")
  return np.unique(arrays.subject, return_inverse=True)[1].astype(np.int32)


def _class_counts(label: np.ndarray, unit: np.ndarray) -> np.ndarray:
  """Counts the examples of each class that there is in each unit, int64 [U, K]."""
  classes, column = np.unique(label, return_inverse=True)
  counts = np.zeros((int(unit.max(initial=-1)) + 1, len(classes)), np.int64)
  np.add.at(counts, (unit, column), 1)
  return counts


def _balance(counts: np.ndarray, share: np.ndarray, rng: np.random.Generator, fixed: Sequence[int] = ()) -> np.ndarray:
  """Puts units into parts so that each part has close to its share of every class, and of all examples.

  What is lowered is the sum, over parts and classes, of (the part's share of the class)^2 / the share it should have.
  Units of several examples are placed one by one, then moved; that is tried in several orders, heavy ones first. The
  single examples fill the gaps.

  Args:
    counts: int [U, K], examples of each class in each unit.
    share: float [P], of each part, summing to 1.
    rng: chooses the orders.
    fixed: units that are in part 0 and stay.

  Returns:
    int32 [U], the part of each unit; no part is empty where the shares are equal and the units enough.
  """
  size = counts.sum(axis=1)
  weight = np.column_stack([counts / counts.sum(axis=0), _SIZE_WEIGHT * size / size.sum()])
  start = np.full(len(counts), -1)
  start[list(fixed)] = 0
  large, single = (np.flatnonzero((start < 0) & those) for those in (size > 1, size == 1))
  best, best_cost = start, np.inf
  for attempt in range(_ATTEMPTS):
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
  """Orders positions by falling weight, [U], each times 1 +- noise; at random where that is equal."""
  shuffle = rng.permutation(len(weight))
  return shuffle[np.argsort(-weight[shuffle] * rng.uniform(1 - noise, 1 + noise, len(weight)), kind="stable")]


def _place(units: np.ndarray, weight: np.ndarray, share: np.ndarray, part: np.ndarray, held: np.ndarray) -> bool:
  """Puts each unit where it is cheapest; `part` and what the parts `held` change; says whether any unit has moved."""
  moved = False
  for unit in units:
    before = part[unit]
    if before >= 0:
      held[before] -= weight[unit]
    cost = (held + weight[unit] / 2) @ weight[unit] / share
    cheapest = cost.argmin()
    if before < 0 or cost[cheapest] < cost[before] - _TINY:
      part[unit], moved = cheapest, True
    held[part[unit]] += weight[unit]
  return moved


def _hold_out(label: np.ndarray, unit: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  """Chooses whole units with a share of each class, bool [N]; none where no class could spare one."""
  names, member = np.unique(unit, return_inverse=True)
  shuffle = rng.permutation(len(names))
  counts = _class_counts(label, shuffle[member])
  largest = np.unique(counts.argmax(axis=0)) if len(counts) else np.empty(0, int)
  chosen = _balance(counts, np.array([1 - share, share]), rng, fixed=largest.tolist()) == 1
  for column in range(counts.shape[1]):
    holders = np.flatnonzero(counts[:, column])
    if chosen[holders].any():
      continue
    # A small class, or large units: the smallest that leaves each of its classes something in training.
    spare = (counts[~chosen] > 0).sum(axis=0) > 1
    able = [u for u in holders if spare[counts[u] > 0].all()]
    if able:
      chosen[min(able, key=lambda u: counts[u].sum())] = True
  return chosen[shuffle[member]]


def _fold_splits(arrays: Arrays, folds: Folds, number: int, share: float, seed: int) -> np.ndarray:
  """Returns the split of every example, str [N], where a fold is the test split."""
  _check_share(share)
  rest = np.flatnonzero(folds.number != number)
  chosen = _hold_out(arrays.label[rest], folds.unit[rest], share, np.random.default_rng((seed, number)))
  if not chosen.any():
    raise UserError(
      f"config.folds.number={number}: the {len(rest)} examples outside the fold are too few {UNITS[folds.by]} "
      "to take a validation split from; expected more data, or other folds"
    )
  split = np.full(len(arrays), "test", dtype="<U10")
  split[rest] = np.where(chosen, "validation", "train")
  return split


def _folds(arrays: Arrays, by: str, count: int, seed: int, number: np.ndarray, unit: np.ndarray) -> Folds:
  notes = _missing(arrays, number, count)
  return Folds(by, count, seed, number, unit, arrays.class_names, _digest(arrays), notes)


def _missing(arrays: Arrays, number: np.ndarray, count: int) -> tuple[str, ...]:
  """Says which classes a fold lacks on either side; those that the whole dataset lacks are no part of it."""
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
  """Raises UserError unless a file's content is that of folds, of whichever dataset."""

  def fail(what: str) -> UserError:
    return UserError(f"{path}: {what}; expected a splits.json that a run has written")

  if not isinstance(content, dict):
    raise fail("not JSON, or no division into folds")
  absent = [key for key in _KEYS if key not in content]
  if absent:
    raise fail(f"{absent[0]!r} is missing")
  fold, count = content["fold"], content["count"]
  if content["by"] not in list(UNITS):
    raise fail(f"by={content['by']!r} is none of {', '.join(UNITS)}")
  if not isinstance(content["seed"], int) or not isinstance(count, int) or count < 2:
    raise fail("count and seed are not whole numbers, the count 2 or more")
  if not isinstance(fold, list) or len(fold) != content["examples"]:
    raise fail(f"'fold' is no list of {content['examples']} numbers")
  if any(type(number) is not int for number in fold) or set(fold) != set(range(count)):
    raise fail(f"'fold' does not number {count} folds from 0 to {count - 1}, each with an example")
