"""Findings of an audit, as the content of audit.json."""

from collections.abc import Sequence

import numpy as np

from fer_jax.data.arrays import SPLITS, Arrays
from fer_jax.data.audit import class_counts, conflicting, constant, overlap, subjects_in_several_splits
from fer_jax.data.duplicates import Duplicates
from fer_jax.training.run_files import Record


def audit_content(arrays: Arrays, duplicates: Duplicates, near: int) -> Record:
  """Returns all findings of an audit but those of folds, ready for JSON.

  Every `rows` entry is a list of zero-based row numbers in the prepared dataset.

  Args:
    arrays: Dataset of N examples.
    duplicates: Exact and near duplicates of the dataset.
    near: Maximum hash distance, in bits, that defined the near duplicates.

  Returns:
    Record with counts, and with the rows, labels and splits of each finding.
  """
  # Group the rows by distinct image: sort by image number, then split where the number changes.
  order = np.argsort(duplicates.image_id, kind="stable")
  rows_of_image = np.split(order, np.cumsum(np.bincount(duplicates.image_id))[:-1])

  def shown(image_id: int) -> Record:
    """Describes a distinct image: the rows that contain it, with the label and the split of each."""
    rows = rows_of_image[image_id]
    return {
      "rows": rows.tolist(),
      "labels": [arrays.class_names[label] for label in arrays.label[rows].tolist()],
      "splits": arrays.split[rows].tolist(),
    }

  return {
    "examples": len(arrays),
    "image_shape": list(arrays.image.shape[1:]),
    "classes": list(arrays.class_names),
    "class_counts": {split: counts.tolist() for split, counts in class_counts(arrays).items()},
    "images": len(duplicates.row),
    "duplicates": [shown(image_id) for image_id in np.flatnonzero(np.bincount(duplicates.image_id) > 1).tolist()],
    "conflicting_duplicates": len(conflicting(duplicates.image_id, arrays.label)),
    "near": {
      "threshold": near,
      "pairs": [
        {"distance": distance, "images": [shown(first), shown(second)]}
        for first, second, distance in duplicates.pairs.tolist()
      ],
      **_near_groups(duplicates, arrays),
    },
    "constant": [shown(image_id) for image_id in np.unique(duplicates.image_id[constant(arrays.image)]).tolist()],
    "subjects": len(set(arrays.subject.tolist()) - {""}),
    "subjects_in_several_splits": {who: list(splits) for who, splits in subjects_in_several_splits(arrays).items()},
    "overlaps": _overlaps(arrays, duplicates),
    "notes": list(arrays.notes),
  }


def _near_groups(duplicates: Duplicates, arrays: Arrays) -> Record:
  """Counts the groups of two or more near duplicates, also those with several labels.

  Posed photographs of one person with two expressions can be as similar as near duplicates. Their labels do not
  conflict, so these groups are counted separately.
  """
  group = duplicates.near_group[duplicates.image_id]  # [N]: group of near duplicates of each example
  size = np.bincount(duplicates.near_group)
  several = size > 1  # a conflict within one distinct image is an exact duplicate, not a near one
  differing = [number for number in conflicting(group, arrays.label) if several[number]]
  posed = [
    number for number in differing if len(people := set(arrays.subject[group == number])) == 1 and "" not in people
  ]
  return {
    "groups": int(several.sum()),
    "conflicting_groups": len(differing) - len(posed),
    "posed_groups": len(posed),
    "largest_group": int(np.max(size)) if several.any() else 0,
  }


def _overlaps(arrays: Arrays, duplicates: Duplicates) -> list[Record]:
  """Counts, for each pair of splits, the examples of the later one that have a match in the earlier one."""
  rows = {split: arrays.rows(split) for split in SPLITS if len(arrays.rows(split))}
  pairs = [(of, among) for of in rows for among in rows if SPLITS.index(of) > SPLITS.index(among)]
  return [
    {"of": of, "among": among} | overlap(arrays, duplicates, rows[of], rows[among])._asdict() for of, among in pairs
  ]


def fold_overlaps(arrays: Arrays, duplicates: Duplicates, fold: np.ndarray) -> list[Record]:
  """Counts, for each fold, the test examples that have a match in the rest of the dataset.

  Args:
    arrays: Dataset of N examples; its own splits are ignored.
    duplicates: Exact and near duplicates of the dataset.
    fold: Number of the fold in which each example is tested, int32 [N].

  Returns:
    One record per fold, with the counts of `Overlap`.
  """
  found = {
    number: overlap(arrays, duplicates, np.flatnonzero(fold == number), np.flatnonzero(fold != number))
    for number in np.unique(fold).tolist()
  }
  return [{"fold": number} | counts._asdict() for number, counts in found.items()]


def labels_differ(images: Sequence[Record]) -> bool:
  """Returns whether the examples of these images have more than one label."""
  return len({label for image in images for label in image["labels"]}) > 1


def splits_differ(images: Sequence[Record]) -> bool:
  """Returns whether the examples of these images belong to more than one split."""
  return len({split for image in images for split in image["splits"]}) > 1
