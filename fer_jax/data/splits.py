"""Splits that a dataset does not bring itself."""

import dataclasses

import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.errors import UserError


def with_validation(arrays: Arrays, fraction: float = 0.1, seed: int = 0) -> Arrays:
  """Takes a validation split out of the training split where a dataset has none.

  The share is stratified: at most `fraction` of each class and close to it, but at least one group of a class
  that has two. A group is never divided. The same arguments always choose the same examples.

  Args:
    arrays: a dataset; one that has a validation split is returned unchanged.
    fraction: the share of the training split to take, between 0 and 1.
    seed: chooses which examples.

  Returns:
    The dataset with `split` changed and a note that says so.

  Raises:
    UserError: if `fraction` is out of its range, or training data are too few to be divided.
  """
  if not 0 < fraction < 1:
    raise UserError(f"fraction={fraction} of a validation split is out of range; expected between 0 and 1")
  if len(arrays.rows("validation")):
    return arrays
  train = arrays.rows("train")
  chosen = _stratified_groups(arrays.label[train], arrays.group[train], fraction, seed)
  if not chosen.any() or chosen.all():
    raise UserError(f"the training split ({len(train)} examples) is too small to take a validation split from")
  split = arrays.split.astype(np.array(["validation"]).dtype)
  split[train[chosen]] = "validation"
  note = (
    f"the dataset has no validation split: {chosen.sum()} of its {len(train)} training examples, stratified "
    f"by class, serve as one (seed {seed})"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def _stratified_groups(label: np.ndarray, group: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Chooses whole groups, bool [N]; a group counts for the class of its first example."""
  _, first, member, size = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
  rng = np.random.default_rng(seed)
  taken = np.zeros(len(first), bool)
  for label_class in np.unique(label):
    candidates = rng.permutation(np.flatnonzero(label[first] == label_class))
    if len(candidates) < 2:
      continue
    room = round(fraction * size[candidates].sum())
    for candidate in candidates:
      if size[candidate] <= room:
        taken[candidate] = True
        room -= size[candidate]
    if not taken[candidates].any():
      taken[candidates[size[candidates].argmin()]] = True
  return taken[member]
