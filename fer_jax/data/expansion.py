"""Expands a small dataset with augmented copies of its images, once and before training.

Papers on small datasets expand first and split afterwards, which puts copies of test images into training (`protocol`
"paper"). Splitting first and expanding only the training split measures accuracy on new images ("honest").
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.data.augment import Augmentation
from fer_jax.data.duplicates import duplicated_in_training
from fer_jax.data.records import Records
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.programs import CachedProgram

PROTOCOLS = ("", "paper", "honest")

_CHUNK_ROWS = 512  # copies in each call; a constant, so that one compiled program makes all of them
_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class CopyAugmentation(Augmentation):
  """Augmentation of the copies. The papers do not specify it; the defaults are chosen here for 48x48 faces."""

  shift: int = 2
  rotation: tuple[float, ...] = (0.0, 10.0)
  scale: tuple[float, ...] = (0.9, 1.1)
  contrast: float = 0.2
  brightness: float = 0.2


@dataclasses.dataclass(frozen=True)
class Expansion:
  """Expansion of a dataset by augmented copies, with an integer factor for each class.

  Attributes:
    protocol: Order of the operations. "paper" expands the dataset and then splits it, copies included, so that test
      images have copies in training. "honest" splits first and expands only the training split. "" expands nothing.
    factor: Number of rows that an example becomes: itself and factor - 1 copies.
    by_class: Factors by class name, which replace `factor` for these classes.
    seed: Random seed of the copies, independent of the seed of the training run.
    augmentation: Augmentation that makes the copies.
  """

  protocol: str = ""
  factor: int = 1
  by_class: Mapping[str, int] = dataclasses.field(default_factory=dict)
  seed: int = 0
  augmentation: CopyAugmentation = CopyAugmentation()

  def __post_init__(self) -> None:
    if self.protocol not in PROTOCOLS:
      raise ValueError(f"expansion.protocol={self.protocol!r}: expected one of {_format_names(PROTOCOLS)}")
    named = {f"by_class.{name}": factor for name, factor in self.by_class.items()}
    for key, factor in ({"factor": self.factor} | named).items():
      if factor < 1:
        raise ValueError(f"expansion.{key}={factor}: expected 1 (no copies) or more")
    if self.protocol and max(self.factor, *self.by_class.values(), 1) == 1:
      raise ValueError(
        f"expansion.protocol={self.protocol!r} with expansion.factor=1 makes no copies: expected 2 or more, "
        "there or in expansion.by_class"
      )
    if not 0 <= self.seed <= _LARGEST_SEED:
      raise ValueError(f"expansion.seed={self.seed}: expected 0 to {_LARGEST_SEED}")


def factors(arrays: Arrays, expansion: Expansion) -> np.ndarray:
  """Returns the number of rows that each example becomes.

  Args:
    arrays: Dataset of N examples.
    expansion: Expansion with the factors.

  Returns:
    Factor of each example, int64 [N].

  Raises:
    UserError: If `expansion.by_class` names a class that the dataset does not have.
  """
  for name in expansion.by_class:
    if name not in arrays.class_names:
      raise UserError(
        f"config.expansion.by_class.{name}: the dataset has no such class; expected one of "
        f"{', '.join(arrays.class_names)}"
      )
  # Factor by label, [K] -> factor by example, [N].
  class_factors = [expansion.by_class.get(name, expansion.factor) for name in arrays.class_names]
  return np.array(class_factors, np.int64)[arrays.label]


def expand(arrays: Arrays, expansion: Expansion, rows: np.ndarray | None = None) -> Arrays:
  """Adds augmented copies to a dataset; `expansion.protocol` is ignored.

  Copy k of an image depends only on the seed, the row of the image and k, not on the factors. All runs on one kind of
  device make the same copies.

  Args:
    arrays: Dataset of N examples. Its images may be memory-mapped; those of the result are in memory.
    expansion: Factors, seed and augmentation.
    rows: Rows of the examples that are copied, int [n]; None copies all.

  Returns:
    The dataset with `origin`: its examples in their order, then the copies in the order of their originals. A copy has
    the label, subject, group, split and soft label of its original.

  Raises:
    UserError: If `expansion.by_class` names a class that the dataset does not have, or the dataset is streamed.
  """
  if isinstance(arrays.image, Records):
    raise UserError(
      f"config.expansion.protocol={expansion.protocol!r}: the copies must be in memory, but the dataset is streamed "
      "from its records; use config.data.residence='host', or config.expansion.protocol=''"
    )
  row_factors = factors(arrays, expansion)
  copied_rows = np.arange(len(arrays)) if rows is None else np.sort(rows)
  copies = row_factors[copied_rows] - 1
  # Row of the original of each copy, [c], and number of each copy of one original: 1, 2, ...
  source = np.repeat(copied_rows, copies)
  number = 1 + np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
  origin = np.concatenate([np.arange(len(arrays)), source]).astype(np.int32)
  return dataclasses.replace(
    arrays,
    image=_with_copies(arrays.image, source, number, expansion),
    label=arrays.label[origin],
    subject=arrays.subject[origin],
    group=arrays.group[origin],
    split=arrays.split[origin],
    soft_label=None if arrays.soft_label is None else arrays.soft_label[origin],
    origin=origin,
  )


def with_training_copies(split_arrays: Arrays, expanded: Arrays) -> Arrays:
  """Assigns the copies of training examples to the training split; all other copies are in no split.

  Args:
    split_arrays: Dataset before its expansion, split into training, validation and test.
    expanded: Dataset as returned by `expand`, with copies of at least all training examples; its splits are ignored.

  Returns:
    `expanded` with a new `split` and with the notes of `split_arrays`; all other arrays are shared.
  """
  assert expanded.origin is not None
  split = split_arrays.split[expanded.origin]
  split[~_original(expanded) & (split != "train")] = ""
  return dataclasses.replace(expanded, split=split, notes=split_arrays.notes)


def with_notes(arrays: Arrays, expansion: Expansion, image_id: np.ndarray) -> Arrays:
  """Adds notes for the user to a dataset that was expanded and split.

  The first note contains the number of examples before and after the expansion. The second contains the number of test
  examples whose image, a copy of it, or whose person is also in training.

  Args:
    arrays: Dataset, expanded and split according to the protocol.
    expansion: Expansion that was applied.
    image_id: Result of `duplicates.image_ids`, int32 [N].

  Returns:
    The dataset with two more notes.
  """
  test, train, original = arrays.rows("test"), arrays.rows("train"), _original(arrays)
  if expansion.protocol == "paper":
    prefix, suffix = "expanded, then split: the {} examples became", "; copies are in every split"
    before, after = np.flatnonzero(original), np.arange(len(arrays))
  else:
    prefix, suffix = "split, then expanded: the {} training examples became", "; copies are in no other split"
    before, after = train[original[train]], train
  size_note = f'expansion, protocol "{expansion.protocol}", seed {expansion.seed}: {prefix.format(f"{len(before):,}")}'
  size_note += f" {len(after):,} ({_format_counts(arrays, before, after)}){suffix}"
  duplicated = int(duplicated_in_training(arrays, image_id=image_id).sum())
  overlap_note = (
    f"{duplicated:,} of the {len(test):,} test examples also appear in training, as the same image or as a copy of it"
  )
  if expansion.protocol == "paper" and duplicated:
    overlap_note += ": this is the paper's protocol, not a measure of new faces"
  if arrays.subject.any():
    train_subjects = np.setdiff1d(arrays.subject[train], [""])
    overlap_note += f"; {np.isin(arrays.subject[test], train_subjects).sum():,} show a person who is also in training"
  return dataclasses.replace(arrays, notes=(*arrays.notes, size_note, overlap_note))


def _original(arrays: Arrays) -> np.ndarray:
  """Returns which rows of an expanded dataset are originals, bool [N]."""
  assert arrays.origin is not None
  return np.equal(arrays.origin, np.arange(len(arrays)))


def _format_counts(arrays: Arrays, before: np.ndarray, after: np.ndarray) -> str:
  """Formats the number of examples of each class before and after the expansion.

  Args:
    arrays: Expanded dataset.
    before: Rows of the originals, int [n].
    after: Rows of the originals and their copies, int [m].
  """
  before_counts, after_counts = (
    np.bincount(arrays.label[rows], minlength=arrays.num_classes) for rows in (before, after)
  )
  return ", ".join(
    f"{name} {before_counts[k]:,} x {after_counts[k] // before_counts[k]} = {after_counts[k]:,}"
    for k, name in enumerate(arrays.class_names)
    if before_counts[k]
  )


def _with_copies(image: np.ndarray, source: np.ndarray, number: np.ndarray, expansion: Expansion) -> np.ndarray:
  """Returns the images with their copies appended.

  Args:
    image: Original images, uint8 [N, H, W, C].
    source: Row of the original of each copy, int [c].
    number: Number of each copy among the copies of its original, int [c].
    expansion: Augmentation and seed.

  Returns:
    Images, uint8 [N + c, H, W, C].
  """
  images = np.empty((len(image) + len(source), *image.shape[1:]), np.uint8)
  images[: len(image)] = image
  copies = functools.partial(_copies, expansion.augmentation, expansion.seed)
  program = CachedProgram(copies, f"copies {expansion.augmentation} {expansion.seed}", jax.default_backend())
  for start in range(0, len(source), _CHUNK_ROWS):
    # The last chunk repeats the last copy up to _AT_ONCE, because the program has a fixed shape.
    chunk = np.minimum(np.arange(start, start + _CHUNK_ROWS), len(source) - 1)
    copied_images = program(image[source[chunk]], source[chunk], number[chunk])
    # View of the rows of this chunk; shorter than _AT_ONCE in the last one.
    chunk_rows = images[len(image) + start :][:_CHUNK_ROWS]
    chunk_rows[:] = np.asarray(copied_images)[: len(chunk_rows)]
  return images


def _copies(augmentation: Augmentation, seed: int, image: jax.Array, source: jax.Array, number: jax.Array) -> jax.Array:
  """Makes augmented copies of images.

  Args:
    augmentation: Augmentation of the copies.
    seed: Random seed of the copies.
    image: Original images, uint8 [B, H, W, C].
    source: Row of each original, int [B].
    number: Number of each copy, int [B].

  Returns:
    Copies, uint8 [B, H, W, C].
  """
  key = jax.random.key(seed)

  def copy(image: jax.Array, source: jax.Array, number: jax.Array) -> jax.Array:
    # The key depends on the row and on the copy number only, so the batching does not matter.
    augmented = augmentation(image, jax.random.fold_in(jax.random.fold_in(key, source), number))
    return jnp.round(augmented).astype(jnp.uint8)

  return jax.vmap(copy)(image, source, number)


def _format_names(names: tuple[str, ...]) -> str:
  return ", ".join(name or "empty" for name in names)
