"""Batches of a split, shuffled for training or in order for evaluation. The only file that imports grain.

One grain element is one batch. Training reads an endless stream, the epochs' permutations one after another; batch k
is rows k B to (k + 1) B of it, so no row is left out or doubled in an epoch, whatever the batch size. A permutation
is a function of the seed and the epoch: any batch can be made without those before it.
"""

import functools
from collections.abc import Iterator
from typing import SupportsIndex

import grain
import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.data.batch import Batch

# Batches in a stream: far more than any run takes, and small enough for every index type on the way.
_ENDLESS = 2**31 - 1


class ShuffledBatches:
  """The endless stream of a split's training batches, as a random-access source.

  Args:
    arrays: the dataset.
    split: which part of it.
    batch_size: rows of a global batch.
    seed: of the permutations.
    host: gather images and targets here; otherwise a batch is indices alone.
    process: (index, count) of this process; it yields its share of every global batch.
  """

  def __init__(
    self,
    arrays: Arrays,
    split: str,
    batch_size: int,
    seed: int,
    *,
    host: bool = False,
    process: tuple[int, int] = (0, 1),
  ):
    self._rows = arrays.rows(split)
    self._gather = Gather(arrays) if host else None
    self._batch_size = batch_size
    self._first, self._last = ((process[0] + i) * batch_size // process[1] for i in (0, 1))
    self._permutation = functools.lru_cache(maxsize=4)(functools.partial(_permutation, seed, len(self._rows)))

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, k: SupportsIndex) -> Batch:
    start = int(k) * self._batch_size
    index = self._rows[self._stream(start + self._first, start + self._last)].astype(np.int32)
    mask = np.ones(len(index), bool)
    if self._gather is None:
      return Batch(index, mask)
    return self._gather(index, mask)

  def __repr__(self) -> str:
    return f"ShuffledBatches(rows={len(self._rows)}, batch_size={self._batch_size})"

  def _stream(self, start: int, stop: int) -> np.ndarray:
    """Returns positions within the split, int32 [stop - start], of a stretch of the stream."""
    epoch, offset = divmod(start, len(self._rows))
    length = stop - start
    piece = self._permutation(epoch)[offset : offset + length]
    while len(piece) < length:
      epoch += 1
      piece = np.concatenate([piece, self._permutation(epoch)[: length - len(piece)]])
    return piece


class Gather:
  """Brings rows together on the host."""

  def __init__(self, arrays: Arrays):
    self._image, self._target = arrays.image, targets(arrays)

  def __call__(self, index: np.ndarray, mask: np.ndarray) -> Batch:
    """Returns the batch of rows `index`, int32 [b], with its images and targets."""
    return Batch(index, mask, self._image[index], self._target[index])


def training_iterator(batches: ShuffledBatches) -> grain.DatasetIterator:
  """Returns an iterator over the stream whose position can be saved and restored.

  Batches are made when asked for: the step runs asynchronously, and a batch costs less than handing it
  from a thread to the loop would (measure with `apps.bench --what=pipeline`).
  """
  in_line = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return iter(grain.MapDataset.source(batches).to_iter_dataset(in_line))


def evaluation_batches(
  arrays: Arrays, split: str, batch_size: int, *, host: bool = False, batches: int = 0, view: int = 0
) -> Iterator[Batch]:
  """Yields every row of a split once, in order, in batches of one size; the last is filled up under its mask.

  Args:
    arrays: the dataset.
    split: which part of it.
    batch_size: rows of a global batch.
    host: gather images and targets here; otherwise a batch is indices alone.
    batches: at least so many, the surplus ones all under their masks: trainings in lockstep evaluate alike.
    view: number of the view that is asked for; 0 for the images as they are.
  """
  gather = Gather(arrays) if host else None
  rows = arrays.rows(split)
  views = np.full(batch_size, view, np.int32) if view else None
  n = len(rows)
  for start in range(0, max(n, batches * batch_size) if n else 0, batch_size):
    position = np.arange(start, start + batch_size)
    mask = position < n
    index = rows[np.minimum(position, n - 1)].astype(np.int32)
    batch = gather(index, mask) if gather else Batch(index, mask)
    yield batch._replace(view=views)


def targets(arrays: Arrays) -> np.ndarray:
  """Returns label distributions, float32 [N, K], of all rows: votes where there are some, else one-hot."""
  if arrays.soft_label is not None:
    return np.ascontiguousarray(arrays.soft_label, np.float32)
  return np.eye(arrays.num_classes, dtype=np.float32)[arrays.label]


def _permutation(seed: int, n: int, epoch: int) -> np.ndarray:
  """Returns the order of an epoch, int32 [n]."""
  generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
  return generator.permutation(n).astype(np.int32)
