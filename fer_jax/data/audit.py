"""What a dataset's pictures say about its labels and splits: duplicates, conflicts, leaks, overlaps.

Exact duplicates are equal pixel by pixel. Near duplicates are different pictures whose perceptual hashes are close:
the same photograph at another contrast, in another crop, or with a watermark. (Posed faces in one framing may be as
close without being duplicates.)
"""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from fer_jax.data.arrays import SPLITS, Arrays
from fer_jax.data.records import Images

# Bits in which the hashes of near duplicates may differ. FER2013, looked through by eye: of the 923 pairs up to
# distance 4, two are different photographs; of the 731 at 6, about ten; of the 965 at 8, about one in nine.
NEAR = 6
BITS = 64

_IMAGES_AT_ONCE = 1024
_HASHES_AT_ONCE = 128
_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601
_NOISE = 1e-6  # a coefficient below is rounding: a single pixel that is one grey level off makes more


@dataclasses.dataclass(frozen=True)
class Duplicates:
  """The equal and the similar pictures of a dataset. N: examples; M: distinct pictures.

  Attributes:
    picture: int32 [N], which distinct picture an example shows; numbered as they appear.
    row: int64 [M], the first example that shows each of them.
    pairs: int64 [P, 3], near duplicates: two pictures, the lower number first, and the distance of their hashes.
    near_group: int32 [M], a number that pictures share which are near, directly or through others.
  """

  picture: np.ndarray
  row: np.ndarray
  pairs: np.ndarray
  near_group: np.ndarray


class Overlap(NamedTuple):
  """How many of some examples have a like among others.

  Attributes:
    examples: how many were looked at.
    picture: show a picture that the others show as well.
    near: show a picture that the others do not, but a near duplicate of it.
    subject: are of a person who is among the others; None where the dataset names no subjects.
    group: are of a group (a sequence, or exact duplicates) that is among the others.
  """

  examples: int
  picture: int
  near: int
  subject: int | None
  group: int


def number_pictures(arrays: Arrays) -> np.ndarray:
  """Numbers the distinct pictures of a dataset, int32 [N], in the order in which they appear.

  Pictures are the same that are equal pixel by pixel. An augmented copy (`data.expansion`) is the picture that it was
  made of. Of a dataset that is streamed they are those whose files are equal byte by byte.
  """
  if arrays.picture is not None:
    return arrays.picture
  image = arrays.image
  if arrays.origin is not None:
    image = image[: np.count_nonzero(arrays.origin == np.arange(len(arrays)))]
  numbers: dict[bytes, int] = {}
  digests = (hashlib.sha256(np.ascontiguousarray(one).data).digest() for one in image)
  number = np.fromiter((numbers.setdefault(digest, len(numbers)) for digest in digests), np.int32, len(image))
  return number if arrays.origin is None else number[arrays.origin]


def constant(image: Images) -> np.ndarray:
  """Says which pictures of uint8 [N, H, W, C] are of one colour, bool [N]."""
  return np.array([bool((one == one[0, 0]).all()) for one in image], bool)


def perceptual_hash(image: Images) -> tuple[np.ndarray, np.ndarray]:
  """Returns the perceptual hash of each picture, and which pictures have one.

  A bit says whether one of the DCT-II coefficients 1 to 8 along each side is above their median, after the
  DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2, the
  pHash library's. That takes them of the picture smoothed and reduced to 32x32; here they are the whole picture's,
  which at such low frequencies are the same but for a factor, so brightness, contrast and size hardly matter.

  Args:
    image: uint8 [N, H, W, C], C being 1 (grey) or 3 (RGB); H and W 9 or more.

  Returns:
    uint64 [N], and bool [N]: False for a picture without content at these frequencies, a constant one above all.
  """
  vertical, horizontal = _cosines(image.shape[1]), _cosines(image.shape[2])
  code, known = np.empty(len(image), np.uint64), np.empty(len(image), bool)
  for start in range(0, len(image), _IMAGES_AT_ONCE):
    rows = slice(start, start + _IMAGES_AT_ONCE)
    some = image[rows]
    grey = some @ _GREY if some.shape[3] == 3 else some[..., 0].astype(np.float64)
    # Without its mean, a constant picture has coefficients of zero, not of rounding.
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    coefficient = (vertical @ grey @ horizontal.T).reshape(-1, BITS)
    coefficient[np.abs(coefficient) < _NOISE] = 0
    bits = coefficient > np.median(coefficient, axis=1, keepdims=True)
    code[rows] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    known[rows] = coefficient.any(axis=1)
  return code, known


def _cosines(size: int) -> np.ndarray:
  """Returns the rows 1 to 8 of the orthonormal DCT-II matrix, float64 [8, size]."""
  frequency, position = np.arange(1, 9)[:, None], np.arange(size)[None, :]
  return np.sqrt(2 / size) * np.cos(np.pi / size * (position + 0.5) * frequency)


def near_pairs(code: np.ndarray, threshold: int = NEAR) -> np.ndarray:
  """Finds the pairs of hashes, uint64 [M], that differ in at most `threshold` bits.

  All pairs are compared, in blocks: exact for every threshold, and two seconds for the 34,034 pictures of FER2013.

  Returns:
    int64 [P, 3]: two positions, the lower first, and the distance; in the order of the positions.
  """
  found = [np.empty((0, 3), np.int64)]
  for start in range(0, len(code), _HASHES_AT_ONCE):
    distance = np.bitwise_count(code[start : start + _HASHES_AT_ONCE, None] ^ code[None, start:])
    first, second = np.nonzero(distance <= threshold)
    apart = first < second
    first, second = first[apart], second[apart]
    found.append(np.column_stack([first + start, second + start, distance[first, second]]).astype(np.int64))
  return np.concatenate(found)


def find_duplicates(arrays: Arrays, threshold: int = NEAR) -> Duplicates:
  """Finds the equal and the similar pictures of a dataset.

  Pictures of one group (frames of a sequence) are alike by nature and not listed as near duplicates.

  Args:
    arrays: the dataset; its images are read in turn, so they may be memory-mapped.
    threshold: bits in which the hashes of near duplicates may differ, of 64.
  """
  picture = number_pictures(arrays)
  row = np.unique(picture, return_index=True)[1]
  code, known = perceptual_hash(arrays.image)
  hashed = np.flatnonzero(known[row])
  pairs = near_pairs(code[row[hashed]], threshold)
  pairs[:, :2] = hashed[pairs[:, :2]]
  group = arrays.group[row]
  pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
  return Duplicates(picture, row, pairs, components(pairs[:, 0], pairs[:, 1], len(row)))


def components(left: np.ndarray, right: np.ndarray, nodes: int) -> np.ndarray:
  """Numbers the connected components of an undirected graph: the component of each node, int32 [nodes].

  Args:
    left: int [E], a node of each edge.
    right: int [E], the other one.
    nodes: how many there are.
  """
  # Here: together they take a tenth of a second to import, which every start of a training would wait for.
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import connected_components

  links = coo_array((np.ones(len(left), bool), (left, right)), shape=(nodes, nodes))
  return np.asarray(connected_components(links, directed=False)[1])


def conflicting(group: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Returns the groups, sorted, in which examples have different labels; both arguments are int [N]."""
  labels_of_group = np.unique(np.column_stack([group, label]), axis=0)[:, 0]
  groups, labels = np.unique(labels_of_group, return_counts=True)
  return groups[labels > 1]


def class_counts(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns the examples of each class, int64 [K], in each split that has any."""
  return {
    split: np.bincount(arrays.label[arrays.rows(split)], minlength=arrays.num_classes)
    for split in SPLITS
    if len(arrays.rows(split))
  }


def subjects_in_several_splits(arrays: Arrays) -> dict[str, tuple[str, ...]]:
  """Returns the people who stand in more than one split, and these splits."""
  splits: dict[str, list[str]] = {}
  for split in SPLITS:
    for subject in np.unique(arrays.subject[arrays.rows(split)]).tolist():
      splits.setdefault(subject, []).append(split)
  return {subject: tuple(found) for subject, found in sorted(splits.items()) if subject and len(found) > 1}


def overlap(arrays: Arrays, duplicates: Duplicates, rows: np.ndarray, others: np.ndarray) -> Overlap:
  """Counts which of the examples at `rows` have a like among those at `others`, both int [n]."""
  shown = np.zeros(len(duplicates.row), bool)
  shown[duplicates.picture[others]] = True
  near = np.zeros(len(duplicates.row), bool)
  first, second = duplicates.pairs[:, 0], duplicates.pairs[:, 1]
  near[first[shown[second]]] = True
  near[second[shown[first]]] = True
  picture = duplicates.picture[rows]
  named = arrays.subject[others] != ""
  return Overlap(
    examples=len(rows),
    picture=int(shown[picture].sum()),
    near=int((near & ~shown)[picture].sum()),
    subject=int(np.isin(arrays.subject[rows], arrays.subject[others][named]).sum()) if arrays.subject.any() else None,
    group=int(np.isin(arrays.group[rows], arrays.group[others]).sum()),
  )


def seen_in_training(arrays: Arrays, split: str = "test", picture: np.ndarray | None = None) -> np.ndarray:
  """Says which examples of a split, bool [n] in the order of its rows, stand pixel by pixel in the training split.

  Args:
    arrays: the dataset.
    split: which part of it.
    picture: what `number_pictures` makes of it, int32 [N], where that is known already.
  """
  picture = number_pictures(arrays) if picture is None else picture
  return np.isin(picture[arrays.rows(split)], picture[arrays.rows("train")])


def without_train_duplicates(arrays: Arrays) -> Arrays:
  """Leaves out the training examples whose picture stands, pixel by pixel, in the validation or test split too.

  They are given to no split: no image is copied, and the other examples keep their places.

  Returns:
    The dataset with the `split` of these examples set to "" and a note that says how many they are.
  """
  picture = number_pictures(arrays)
  train = arrays.rows("train")
  evaluated = np.concatenate([arrays.rows(split) for split in SPLITS if split != "train"])
  dropped = train[np.isin(picture[train], picture[evaluated])]
  split = arrays.split.copy()
  split[dropped] = ""
  note = (
    f"{len(dropped)} of the {len(train)} training examples are left out: their pictures stand, pixel by pixel, in the "
    "validation or test split too"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))


def audit(arrays: Arrays) -> list[str]:
  """Says which pictures are equal, across labels and splits, who is in several splits, and which pictures are constant.

  Returns:
    A line for each finding; none for a dataset without any.
  """
  picture = number_pictures(arrays)
  copies = np.bincount(picture)
  lines = []
  if len(copies) < len(arrays):
    lines.append(f"{len(copies)} distinct images in {len(arrays)} rows: {np.sum(copies > 1)} stand more than once")
  conflicts = len(conflicting(picture, arrays.label))
  if conflicts:
    lines.append(f"{conflicts} of these groups of duplicates have conflicting labels")
  in_train = picture[arrays.rows("train")]
  for split in ("validation", "test"):
    leaked = np.sum(np.isin(picture[arrays.rows(split)], in_train))
    if leaked:
      lines.append(f"{leaked} of the {len(arrays.rows(split))} {split} images stand in train as well")
  people = len(subjects_in_several_splits(arrays))
  if people:
    lines.append(f"{people} of the {len(set(arrays.subject.tolist()) - {''})} subjects stand in more than one split")
  flat = np.sum(constant(arrays.image))
  if flat:
    lines.append(f"{flat} images are constant (all pixels equal)")
  return lines
