"""Expansion: a small dataset made larger, once and before training, by augmented copies of its pictures.

Papers on small sets expand and then divide, so that copies of a test picture stand in training (`protocol` "paper").
To divide first and to expand the training side alone is the measure of new pictures ("honest").
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.data.audit import seen_in_training
from fer_jax.data.augment import Augmentation
from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.programs import KeptProgram

PROTOCOLS = ("", "paper", "honest")

_AT_ONCE = 512  # copies of a call; always so many, so that each is made by the same program
_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class CopyAugmentation(Augmentation):
  """How a copy differs from its picture. The papers are silent on it: these values are our choice, for 48x48 faces."""

  shift: int = 2
  rotation: tuple[float, ...] = (0.0, 10.0)
  scale: tuple[float, ...] = (0.9, 1.1)
  contrast: float = 0.2
  brightness: float = 0.2


@dataclasses.dataclass(frozen=True)
class Expansion:
  """A dataset made larger by augmented copies, by a whole factor for each class.

  Attributes:
    protocol: "paper" expands, then divides the copies like any pictures, so that a test picture has copies in
      training; "honest" divides, then expands the training split alone; "" expands nothing.
    factor: rows that an example becomes: itself and factor - 1 copies.
    by_class: factors by the name of a class, in the place of `factor`.
    seed: of the copies, apart from that of the training.
    augmentation: what makes the copies.
  """

  protocol: str = ""
  factor: int = 1
  by_class: Mapping[str, int] = dataclasses.field(default_factory=dict)
  seed: int = 0
  augmentation: CopyAugmentation = CopyAugmentation()

  def __post_init__(self) -> None:
    if self.protocol not in PROTOCOLS:
      raise ValueError(f"expansion.protocol={self.protocol!r}: expected one of {_listed(PROTOCOLS)}")
    named = {f"by_class.{name}": factor for name, factor in self.by_class.items()}
    for key, factor in ({"factor": self.factor} | named).items():
      if factor < 1:
        raise ValueError(f"expansion.{key}={factor}: expected 1 (no copies) or more")
    if self.protocol and max(self.factor, *self.by_class.values(), 1) == 1:
      raise ValueError(
        f"expansion.protocol={self.protocol!r} with expansion.factor=1: there would be no copy; expected 2 or more, "
        "there or in expansion.by_class"
      )
    if not 0 <= self.seed <= _LARGEST_SEED:
      raise ValueError(f"expansion.seed={self.seed}: expected 0 to {_LARGEST_SEED}")


def factors(arrays: Arrays, expansion: Expansion) -> np.ndarray:
  """Returns how many rows each example becomes, int64 [N]; raises UserError if `by_class` names an unknown class."""
  for name in expansion.by_class:
    if name not in arrays.class_names:
      raise UserError(
        f"config.expansion.by_class.{name}: the dataset has no such class; expected some of "
        f"{', '.join(arrays.class_names)}"
      )
  of_class = [expansion.by_class.get(name, expansion.factor) for name in arrays.class_names]
  return np.array(of_class, np.int64)[arrays.label]


def expand(arrays: Arrays, expansion: Expansion, rows: np.ndarray | None = None) -> Arrays:
  """Adds augmented copies to a dataset, whatever its protocol.

  Copy k of a picture is a function of the seed, the picture's row and k alone, whatever the factors are: all runs on
  one kind of device make the same copies.

  Args:
    arrays: the dataset; its images may be memory-mapped, those of the result are in memory.
    expansion: the factors, and what makes the copies.
    rows: of the examples that are copied, int [n]; None for all.

  Returns:
    The dataset with `origin`: its examples in their order, then the copies in the order of their pictures. A copy has
    the label, subject, group, split and soft label of its picture.

  Raises:
    UserError: `expansion.by_class` names a class that the dataset lacks, or the dataset is streamed.
  """
  if isinstance(arrays.image, Records):
    raise UserError(
      f"config.expansion.protocol={expansion.protocol!r}: the copies have to be in memory, and the dataset is streamed "
      "from its records; use config.data.residence='host', or config.expansion.protocol=''"
    )
  became = factors(arrays, expansion)
  copied = np.arange(len(arrays)) if rows is None else np.sort(rows)
  copies = became[copied] - 1
  source = np.repeat(copied, copies)
  number = 1 + np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
  origin = np.concatenate([np.arange(len(arrays)), source]).astype(np.int32)
  return dataclasses.replace(
    arrays,
    image=_images(arrays.image, source, number, expansion),
    label=arrays.label[origin],
    subject=arrays.subject[origin],
    group=arrays.group[origin],
    split=arrays.split[origin],
    soft_label=None if arrays.soft_label is None else arrays.soft_label[origin],
    origin=origin,
  )


def with_training_copies(divided: Arrays, expanded: Arrays) -> Arrays:
  """Puts the copies of a divided dataset's training examples into the training split; no other copy is in a split.

  Args:
    divided: the dataset before its expansion, in splits.
    expanded: the dataset as `expand` returned it, however it is divided; copies of all who are in training are there.

  Returns:
    `expanded`, with the very same arrays but for `split`, and with the notes of `divided`.
  """
  assert expanded.origin is not None
  split = divided.split[expanded.origin]
  split[~_original(expanded) & (split != "train")] = ""
  return dataclasses.replace(expanded, split=split, notes=divided.notes)


def with_notes(arrays: Arrays, expansion: Expansion, picture: np.ndarray) -> Arrays:
  """Adds what a user should know about an expanded dataset, now that it is divided.

  A note says how many examples became how many; another how many test examples have their picture, a copy of it, or
  their person in training.

  Args:
    arrays: the dataset, expanded and divided by the protocol.
    expansion: that it is of.
    picture: what `audit.number_pictures` makes of it, int32 [N].
  """
  test, train, original = arrays.rows("test"), arrays.rows("train"), _original(arrays)
  if expansion.protocol == "paper":
    those, rest = "expanded, then divided: the {} examples became", "; copies are in every split"
    before, after = np.flatnonzero(original), np.arange(len(arrays))
  else:
    those, rest = "divided, then expanded: the {} training examples became", "; copies are in no other split"
    before, after = train[original[train]], train
  grown = f'expansion, protocol "{expansion.protocol}", seed {expansion.seed}: {those.format(f"{len(before):,}")}'
  grown += f" {len(after):,} ({_by_class(arrays, before, after)}){rest}"
  seen = int(seen_in_training(arrays, picture=picture).sum())
  found = f"of the {len(test):,} test examples {seen:,} have the same picture, or a copy of it, in training"
  if expansion.protocol == "paper" and seen:
    found += ": this is the paper's protocol, not a measure of new faces"
  if arrays.subject.any():
    people = np.setdiff1d(arrays.subject[train], [""])
    found += f"; {np.isin(arrays.subject[test], people).sum():,} are of a person who is in training"
  return dataclasses.replace(arrays, notes=(*arrays.notes, grown, found))


def _original(arrays: Arrays) -> np.ndarray:
  """Says which rows of an expanded dataset are no copies, bool [N]."""
  assert arrays.origin is not None
  return np.equal(arrays.origin, np.arange(len(arrays)))


def _by_class(arrays: Arrays, before: np.ndarray, after: np.ndarray) -> str:
  """Says what became of each class; `before`, int [n], are rows, and `after`, int [m], the same with their copies."""
  few, many = (np.bincount(arrays.label[rows], minlength=arrays.num_classes) for rows in (before, after))
  return ", ".join(
    f"{name} {few[k]:,} x {many[k] // few[k]} = {many[k]:,}" for k, name in enumerate(arrays.class_names) if few[k]
  )


def _images(image: np.ndarray, source: np.ndarray, number: np.ndarray, expansion: Expansion) -> np.ndarray:
  """Returns images, uint8 [N, H, W, C], with their copies after them; of each its row in `source` and its number."""
  whole = np.empty((len(image) + len(source), *image.shape[1:]), np.uint8)
  whole[: len(image)] = image
  copies = functools.partial(_copies, expansion.augmentation, expansion.seed)
  program = KeptProgram(copies, f"copies {expansion.augmentation} {expansion.seed}", jax.default_backend())
  for start in range(0, len(source), _AT_ONCE):
    chunk = np.minimum(np.arange(start, start + _AT_ONCE), len(source) - 1)
    made = program(image[source[chunk]], source[chunk], number[chunk])
    place = whole[len(image) + start :][:_AT_ONCE]
    place[:] = np.asarray(made)[: len(place)]
  return whole


def _copies(augmentation: Augmentation, seed: int, image: jax.Array, source: jax.Array, number: jax.Array) -> jax.Array:
  """Returns copies, uint8 [B, H, W, C], of images; `source` and `number`, int [B], choose how each is changed."""
  key = jax.random.key(seed)

  def copy(image: jax.Array, source: jax.Array, number: jax.Array) -> jax.Array:
    changed = augmentation(image, jax.random.fold_in(jax.random.fold_in(key, source), number))
    return jnp.round(changed).astype(jnp.uint8)

  return jax.vmap(copy)(image, source, number)


def _listed(names: tuple[str, ...]) -> str:
  return ", ".join(name or "empty" for name in names)
