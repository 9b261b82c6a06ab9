"""What an audit found, as the JSON that stands beside its page."""

from collections.abc import Sequence

import numpy as np

from fer_jax.apps.report_page.run_files import Record
from fer_jax.data.arrays import SPLITS, Arrays
from fer_jax.data.audit import (
  Duplicates,
  Overlap,
  class_counts,
  conflicting,
  constant,
  overlap,
  subjects_in_several_splits,
)


def audit_content(arrays: Arrays, duplicates: Duplicates, near: int) -> Record:
  """Gathers what is to be said of a dataset. A row is an example's place in the prepared dataset, from 0.

  Args:
    arrays: the dataset.
    duplicates: of it.
    near: the threshold that they were found with.
  """
  shown = _Shown(arrays, duplicates)
  groups = duplicates.near_group[duplicates.picture]
  return {
    "examples": len(arrays),
    "image_shape": list(arrays.image.shape[1:]),
    "classes": list(arrays.class_names),
    "class_counts": {split: counts.tolist() for split, counts in class_counts(arrays).items()},
    "pictures": len(duplicates.row),
    "duplicates": [shown(picture) for picture in np.flatnonzero(np.bincount(duplicates.picture) > 1).tolist()],
    "conflicting_duplicates": len(conflicting(duplicates.picture, arrays.label)),
    "near": {
      "threshold": near,
      "pairs": [
        {"distance": distance, "pictures": [shown(first), shown(second)]}
        for first, second, distance in duplicates.pairs.tolist()
      ],
      **_near_groups(duplicates, conflicting(groups, arrays.label)),
    },
    "constant": [shown(picture) for picture in np.unique(duplicates.picture[constant(arrays.image)]).tolist()],
    "subjects": len(set(arrays.subject.tolist()) - {""}),
    "subjects_in_several_splits": {who: list(splits) for who, splits in subjects_in_several_splits(arrays).items()},
    "overlaps": _overlaps(arrays, duplicates),
    "notes": list(arrays.notes),
  }


class _Shown:
  """Describes a distinct picture: the rows that show it, with the label and the split of each."""

  def __init__(self, arrays: Arrays, duplicates: Duplicates):
    self._arrays = arrays
    order = np.argsort(duplicates.picture, kind="stable")
    ends = np.cumsum(np.bincount(duplicates.picture))
    self._rows = np.split(order, ends[:-1])

  def __call__(self, picture: int) -> Record:
    rows = self._rows[picture]
    return {
      "rows": rows.tolist(),
      "labels": [self._arrays.class_names[label] for label in self._arrays.label[rows].tolist()],
      "splits": self._arrays.split[rows].tolist(),
    }


def _near_groups(duplicates: Duplicates, conflicts: np.ndarray) -> Record:
  """Counts the groups of two or more near pictures, those with different labels too, and their pictures."""
  size = np.bincount(duplicates.near_group)
  several = size > 1
  return {
    "groups": int(several.sum()),
    "conflicting_groups": int(several[conflicts].sum()),
    "largest_group": int(np.max(size)) if several.any() else 0,
  }


def _overlaps(arrays: Arrays, duplicates: Duplicates) -> list[Record]:
  """Counts, for each two splits, which of the later's examples have a like in the earlier."""
  rows = {split: arrays.rows(split) for split in SPLITS if len(arrays.rows(split))}
  pairs = [(of, among) for of in rows for among in rows if SPLITS.index(of) > SPLITS.index(among)]
  return [
    {"of": of, "among": among} | overlap(arrays, duplicates, rows[of], rows[among])._asdict() for of, among in pairs
  ]


def fold_overlaps(arrays: Arrays, duplicates: Duplicates, fold: np.ndarray) -> list[Record]:
  """Counts, for each fold, which of its test examples have a like in the rest of the dataset.

  Args:
    arrays: the dataset; its own splits do not count.
    duplicates: of it.
    fold: int32 [N], the fold in which each example is tested.
  """
  found: list[tuple[int, Overlap]] = [
    (number, overlap(arrays, duplicates, np.flatnonzero(fold == number), np.flatnonzero(fold != number)))
    for number in np.unique(fold).tolist()
  ]
  return [{"fold": number} | counted._asdict() for number, counted in found]


def labels_differ(pictures: Sequence[Record]) -> bool:
  """Says whether the examples that show some pictures have more than one label."""
  return len({label for picture in pictures for label in picture["labels"]}) > 1


def splits_differ(pictures: Sequence[Record]) -> bool:
  """Says whether the examples that show some pictures stand in more than one split."""
  return len({split for picture in pictures for split in picture["splits"]}) > 1
