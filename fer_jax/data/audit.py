"""Checks a dataset: conflicting labels, overlap between splits, and constant images."""

from typing import NamedTuple

import numpy as np

from fer_jax.data.arrays import SPLITS, Arrays
from fer_jax.data.duplicates import Duplicates, image_ids
from fer_jax.data.records import Images


class Overlap(NamedTuple):
  """Numbers of examples that have a counterpart among other examples.

  Attributes:
    examples: Number of examples compared.
    image: Number of examples whose image also appears among the others.
    near: Number of examples whose image does not appear among the others, but a near duplicate of it does.
    subject: Number of examples of a person who also appears among the others; None if the dataset names no subjects.
    group: Number of examples whose group (a sequence, or exact duplicates) also appears among the others.
  """

  examples: int
  image: int
  near: int
  subject: int | None
  group: int


def constant(image: Images) -> np.ndarray:
  """Returns which images of uint8 [N, H, W, C] are constant (all pixels equal), bool [N]."""
  return np.array([bool((each_image == each_image[0, 0]).all()) for each_image in image], bool)


def conflicting(group: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Returns the groups in which examples have different labels.

  Args:
    group: Group of each example, int [N].
    label: Label of each example, int [N].

  Returns:
    Groups with conflicting labels, sorted, int [G].
  """
  # One row per distinct (group, label): a group that occurs twice has two labels.
  labels_of_group = np.unique(np.column_stack([group, label]), axis=0)[:, 0]
  groups, labels = np.unique(labels_of_group, return_counts=True)
  return groups[labels > 1]


def class_counts(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns the number of examples of each class, int64 [K], for each split that is not empty."""
  return {
    split: np.bincount(arrays.label[arrays.rows(split)], minlength=arrays.num_classes)
    for split in SPLITS
    if len(arrays.rows(split))
  }


def subjects_in_several_splits(arrays: Arrays) -> dict[str, tuple[str, ...]]:
  """Returns the people who appear in more than one split, and these splits."""
  splits: dict[str, list[str]] = {}
  for split in SPLITS:
    for subject in np.unique(arrays.subject[arrays.rows(split)]).tolist():
      splits.setdefault(subject, []).append(split)
  return {subject: tuple(names) for subject, names in sorted(splits.items()) if subject and len(names) > 1}


def overlap(arrays: Arrays, duplicates: Duplicates, rows: np.ndarray, others: np.ndarray) -> Overlap:
  """Counts the examples at `rows` that have a counterpart among the examples at `others`.

  Args:
    arrays: Dataset.
    duplicates: Result of `find_duplicates` for the dataset.
    rows: Rows of the examples that are counted, int [n].
    others: Rows of the examples they are compared with, int [m].

  Returns:
    The counts.
  """
  # Both masks are per distinct image, bool [M]: among the others; near a distinct image among the others.
  in_others = np.zeros(len(duplicates.row), bool)
  in_others[duplicates.image_id[others]] = True
  near = np.zeros(len(duplicates.row), bool)
  first, second = duplicates.pairs[:, 0], duplicates.pairs[:, 1]
  near[first[in_others[second]]] = True
  near[second[in_others[first]]] = True
  image_id = duplicates.image_id[rows]
  named = arrays.subject[others] != ""
  return Overlap(
    examples=len(rows),
    image=int(in_others[image_id].sum()),
    near=int((near & ~in_others)[image_id].sum()),
    subject=int(np.isin(arrays.subject[rows], arrays.subject[others][named]).sum()) if arrays.subject.any() else None,
    group=int(np.isin(arrays.group[rows], arrays.group[others]).sum()),
  )


def audit(arrays: Arrays) -> list[str]:
  """Reports duplicate images, conflicting labels, overlaps between splits and constant images.

  Args:
    arrays: Dataset.

  Returns:
    One line for each finding; empty if there is none.
  """
  image_id = image_ids(arrays)
  copies = np.bincount(image_id)
  lines = []
  if len(copies) < len(arrays):
    lines.append(f"{len(copies)} distinct images in {len(arrays)} rows: {np.sum(copies > 1)} appear more than once")
  conflicts = len(conflicting(image_id, arrays.label))
  if conflicts:
    lines.append(f"{conflicts} of these groups of duplicates have conflicting labels")
  in_train = image_id[arrays.rows("train")]
  for split in ("validation", "test"):
    shared = np.sum(np.isin(image_id[arrays.rows(split)], in_train))
    if shared:
      lines.append(f"{shared} of the {len(arrays.rows(split))} {split} images also appear in train")
  overlapping_subjects = len(subjects_in_several_splits(arrays))
  if overlapping_subjects:
    lines.append(
      f"{overlapping_subjects} of the {len(set(arrays.subject.tolist()) - {''})} subjects appear in more than one split"
    )
  constant_images = np.sum(constant(arrays.image))
  if constant_images:
    lines.append(f"{constant_images} images are constant (all pixels equal)")
  return lines
