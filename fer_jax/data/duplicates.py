"""Exact and near duplicates among the images of a dataset.

Exact duplicates are equal in every pixel. Near duplicates are different images whose perceptual hashes are close: the
same photograph at another contrast, in another crop, or with a watermark. Posed faces in one framing can have hashes as
close as that without being duplicates.
"""

import dataclasses
import hashlib

import numpy as np

from fer_jax.data.arrays import SPLITS, Arrays
from fer_jax.data.records import Images

# Maximum number of bits in which the hashes of near duplicates differ. FER2013, inspected by eye: of the 923 pairs at
# distance 4 or less, two are different photographs; of the 731 pairs at distance 6, about ten; of the 965 at 8, 1 in 9.
NEAR = 6
BITS = 64
_IMAGES_AT_ONCE = 1024
_HASHES_AT_ONCE = 128
_GREY = np.array([0.299, 0.587, 0.114])  # Weights of red, green and blue, ITU-R BT.601
_NOISE = 1e-6  # Smaller coefficients are rounding errors; one pixel that differs by one grey level gives more


@dataclasses.dataclass(frozen=True)
class Duplicates:
  """Exact and near duplicates in a dataset of N examples and M distinct images.

  Attributes:
    image_id: Number of the distinct image of each example, int32 [N], in order of first appearance.
    row: First example that has each distinct image, int64 [M].
    pairs: Near duplicates, int64 [P, 3]: the numbers of two distinct images, the lower one first, and their hash
      distance.
    near_group: Group of each distinct image, int32 [M]; images that are near duplicates, directly or through other
      images, share a group.
  """

  image_id: np.ndarray
  row: np.ndarray
  pairs: np.ndarray
  near_group: np.ndarray


def image_ids(arrays: Arrays) -> np.ndarray:
  """Numbers the distinct images of a dataset in order of first appearance.

  Images are the same if all their pixels are equal. An augmented copy (`data.expansion`) has the number of its
  original. In a streamed dataset, images are the same if their files are equal byte by byte.

  Args:
    arrays: Dataset of N examples.

  Returns:
    Number of each example's image, int32 [N].
  """
  if arrays.image_id is not None:
    return arrays.image_id
  image = arrays.image
  # Originals come first, so this slice contains all of them and no copy.
  if arrays.origin is not None:
    image = image[: np.count_nonzero(arrays.origin == np.arange(len(arrays)))]
  numbers: dict[bytes, int] = {}
  # A digest per image: the images may not fit into memory.
  digests = (hashlib.sha256(np.ascontiguousarray(each_image).data).digest() for each_image in image)
  number = np.fromiter((numbers.setdefault(digest, len(numbers)) for digest in digests), np.int32, len(image))
  return number if arrays.origin is None else number[arrays.origin]


def perceptual_hash(image: Images) -> tuple[np.ndarray, np.ndarray]:
  """Computes the perceptual hash of each image.

  A bit is 1 if one of the 64 DCT-II coefficients of frequencies 1 to 8 along each side is above their median. This is
  the DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2, as
  in the pHash library. pHash smooths the image and reduces it to 32x32 first. Here, the coefficients are those of the
  whole image, which differ only by a factor at such low frequencies. The hash hardly depends on brightness, contrast
  and size.

  Args:
    image: Images, uint8 [N, H, W, C]; C is 1 (grey) or 3 (RGB), H and W are 9 or more.

  Returns:
    Hashes, uint64 [N], and their validity, bool [N]: False for an image without content at these frequencies, for
    example a constant one.
  """
  # [8, H], [8, W]
  vertical, horizontal = _cosines(image.shape[1]), _cosines(image.shape[2])
  code, valid = np.empty(len(image), np.uint64), np.empty(len(image), bool)
  for start in range(0, len(image), _IMAGES_AT_ONCE):
    rows = slice(start, start + _IMAGES_AT_ONCE)
    chunk = image[rows]
    # [n, H, W, C] -> float64 [n, H, W]
    grey = chunk @ _GREY if chunk.shape[3] == 3 else chunk[..., 0].astype(np.float64)
    # After the mean is subtracted, the coefficients of a constant image are exactly zero.
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    # [8, H] @ [n, H, W] @ [W, 8] -> [n, 8, 8] -> [n, 64]
    coefficient = (vertical @ grey @ horizontal.T).reshape(-1, BITS)
    coefficient[np.abs(coefficient) < _NOISE] = 0
    bits = coefficient > np.median(coefficient, axis=1, keepdims=True)
    # [n, 64] bits -> [n, 8] bytes -> uint64 [n, 1]
    code[rows] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    valid[rows] = coefficient.any(axis=1)
  return code, valid


def _cosines(size: int) -> np.ndarray:
  """Returns rows 1 to 8 of the orthonormal DCT-II matrix, float64 [8, size]."""
  frequency, position = np.arange(1, 9)[:, None], np.arange(size)[None, :]
  return np.sqrt(2 / size) * np.cos(np.pi / size * (position + 0.5) * frequency)


def near_pairs(code: np.ndarray, threshold: int = NEAR) -> np.ndarray:
  """Finds the pairs of hashes that differ in at most `threshold` bits.

  All pairs are compared, in blocks, so the result is exact for every threshold. The 34,034 images of FER2013 take two
  seconds.

  Args:
    code: Hashes, uint64 [M].
    threshold: Maximum number of different bits, 0 to 64.

  Returns:
    Pairs, int64 [P, 3], sorted by position: two positions in `code`, the lower one first, and the distance in bits.
  """
  found = [np.empty((0, 3), np.int64)]
  for start in range(0, len(code), _HASHES_AT_ONCE):
    # [b, 1] ^ [1, M - start] -> [b, M - start]; earlier columns were compared in earlier blocks
    distance = np.bitwise_count(code[start : start + _HASHES_AT_ONCE, None] ^ code[None, start:])
    first, second = np.nonzero(distance <= threshold)
    # Excludes the diagonal and the mirrored pairs within the block.
    is_upper = first < second
    first, second = first[is_upper], second[is_upper]
    found.append(np.column_stack([first + start, second + start, distance[first, second]]).astype(np.int64))
  return np.concatenate(found)


def find_duplicates(arrays: Arrays, threshold: int = NEAR) -> Duplicates:
  """Finds the exact and near duplicates of a dataset.

  Images of one group (frames of a sequence) are naturally similar and are not listed as near duplicates.

  Args:
    arrays: Dataset; its images are read in order and in chunks, so they may be memory-mapped.
    threshold: Maximum number of bits, of 64, in which the hashes of near duplicates differ.

  Returns:
    The duplicates.
  """
  image_id = image_ids(arrays)
  row = np.unique(image_id, return_index=True)[1]
  code, valid = perceptual_hash(arrays.image)
  hashed = np.flatnonzero(valid[row])
  pairs = near_pairs(code[row[hashed]], threshold)
  # Positions among the hashed images -> numbers of distinct images.
  pairs[:, :2] = hashed[pairs[:, :2]]
  # [M]
  group = arrays.group[row]
  pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
  return Duplicates(image_id, row, pairs, components(pairs[:, 0], pairs[:, 1], len(row)))


def components(left: np.ndarray, right: np.ndarray, nodes: int) -> np.ndarray:
  """Numbers the connected components of an undirected graph.

  Args:
    left: First node of each edge, int [E].
    right: Second node of each edge, int [E].
    nodes: Number of nodes.

  Returns:
    Component of each node, int32 [nodes].
  """
  # Imported here: the two take 0.1 s to import, which would delay the start of every training run.
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import connected_components

  graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(nodes, nodes))
  return np.asarray(connected_components(graph, directed=False)[1])


def duplicated_in_training(arrays: Arrays, split: str = "test", image_id: np.ndarray | None = None) -> np.ndarray:
  """Returns which examples of a split have an image that also appears, equal in every pixel, in the training split.

  Args:
    arrays: Dataset.
    split: Name of the split.
    image_id: Result of `image_ids`, int32 [N]; None to compute it here.

  Returns:
    Mask in the order of the split's rows, bool [n].
  """
  image_id = image_ids(arrays) if image_id is None else image_id
  return np.isin(image_id[arrays.rows(split)], image_id[arrays.rows("train")])


def without_train_duplicates(arrays: Arrays) -> Arrays:
  """Removes the training examples whose image also appears, equal in every pixel, in the validation or test split.

  The examples are assigned to no split. No image is copied, and the other examples keep their rows.

  Args:
    arrays: Dataset.

  Returns:
    The dataset with the `split` of these examples set to "", and a note with their number.
  """
  image_id = image_ids(arrays)
  train = arrays.rows("train")
  evaluated = np.concatenate([arrays.rows(split) for split in SPLITS if split != "train"])
  removed = train[np.isin(image_id[train], image_id[evaluated])]
  split = arrays.split.copy()
  split[removed] = ""
  note = (
    f"{len(removed)} of the {len(train)} training examples are left out: their images also appear, pixel by pixel, in "
    "the validation or test split"
  )
  return dataclasses.replace(arrays, split=split, notes=(*arrays.notes, note))
