"""Batches of a split, shuffled for training or in order for evaluation. The only file that imports grain.

One grain element is one batch. Training reads an endless stream, the epochs' permutations one after another; batch k
is rows k B to (k + 1) B of it, so no row is left out or doubled in an epoch, whatever the batch size. A permutation
is a function of the seed and the epoch: any batch can be made without those before it.

Batches of a dataset that is in memory are made when they are asked for. Those of one that is streamed are decoded ahead
by threads, as many as there are cores; together they hold at most AHEAD_BYTES of images, or two batches.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import SupportsIndex

import grain
import numpy as np

from fer_jax import provenance
from fer_jax.data.arrays import Arrays
from fer_jax.data.batch import Batch

# Batches in a stream: far more than any run takes, and small enough for every index type on the way.
_ENDLESS = 2**31 - 1
AHEAD_BYTES = 512 * 1024**2
"""Most bytes of images that an iterator's threads have decoded, or are decoding, beyond the batch that was taken."""
_IN_LINE = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


class ShuffledBatches:
  """The endless stream of a split's training batches, as a random-access source.

  Args:
    arrays: the dataset.
    split: which part of it.
    batch_size: rows of a global batch.
    seed: of the permutations.
    host: gather images and targets here; otherwise a batch is indices alone.
    process: (index, count) of this process; it yields its share of every global batch.

  Attributes:
    ahead_bytes: of a batch's images where it pays to decode batches ahead; else 0.
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
    self._first, self._last = _share(batch_size, process)
    self.ahead_bytes = _image_bytes(arrays, self._last - self._first) if arrays.streamed and host else 0
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


class EvaluationBatches:
  """The batches of `evaluation_batches`, as a random-access source."""

  def __init__(
    self,
    arrays: Arrays,
    split: str,
    batch_size: int,
    *,
    host: bool,
    batches: int,
    view: int,
    process: tuple[int, int],
  ):
    self._rows = arrays.rows(split)
    self._gather = Gather(arrays) if host else None
    self._batch_size = batch_size
    self._first, self._last = _share(batch_size, process)
    self._views = np.full(self._last - self._first, view, np.int32) if view else None
    self._count = max(-(-len(self._rows) // batch_size), batches) if len(self._rows) else 0
    self.ahead_bytes = _image_bytes(arrays, self._last - self._first) if arrays.streamed and host else 0

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, k: SupportsIndex) -> Batch:
    start, n = int(k) * self._batch_size, len(self._rows)
    position = np.arange(start + self._first, start + self._last)
    mask = position < n
    index = self._rows[np.minimum(position, n - 1)].astype(np.int32)
    batch = self._gather(index, mask) if self._gather else Batch(index, mask)
    return batch._replace(view=self._views)


def training_iterator(batches: ShuffledBatches, threads: int | None = None) -> grain.DatasetIterator:
  """Returns an iterator over the stream whose position can be saved and restored; close it at the end.

  Batches in memory are made when asked for: the step runs asynchronously, and a batch costs less than handing it
  from a thread to the loop would (measure with `apps.bench --what=pipeline`).

  Args:
    batches: of the training.
    threads: that decode batches ahead, 0 for none; by default as many as the process has cores where the dataset is
      streamed, and none where it is in memory.
  """
  return iter(grain.MapDataset.source(batches).to_iter_dataset(_read_options(batches.ahead_bytes, threads)))


def evaluation_batches(
  arrays: Arrays,
  split: str,
  batch_size: int,
  *,
  host: bool = False,
  batches: int = 0,
  view: int = 0,
  process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
  """Yields every row of a split once, in order, in batches of one size; the last is filled up under its mask.

  Args:
    arrays: the dataset.
    split: which part of it.
    batch_size: rows of a global batch.
    host: gather images and targets here; otherwise a batch is indices alone.
    batches: at least so many, the surplus ones all under their masks: trainings in lockstep evaluate alike.
    view: number of the view that is asked for; 0 for the images as they are.
    process: (index, count) of this process; it yields its share of every global batch.
  """
  source = EvaluationBatches(arrays, split, batch_size, host=host, batches=batches, view=view, process=process)
  if not source.ahead_bytes:
    yield from (source[k] for k in range(len(source)))
    return
  iterator = iter(grain.MapDataset.source(source).to_iter_dataset(_read_options(source.ahead_bytes)))
  with contextlib.closing(iterator):
    yield from iterator


def _read_options(batch_bytes: int, threads: int | None = None) -> grain.ReadOptions:
  """Returns how far ahead batches are made; `batch_bytes` is 0 where they are in memory."""
  threads = (provenance.cores() if batch_bytes else 0) if threads is None else threads
  if not threads:
    return _IN_LINE
  ahead = max(2, min(2 * threads, AHEAD_BYTES // max(1, batch_bytes)))
  return grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)


def _image_bytes(arrays: Arrays, rows: int) -> int:
  return rows * math.prod(arrays.image.shape[1:])


def targets(arrays: Arrays) -> np.ndarray:
  """Returns label distributions, float32 [N, K], of all rows: votes where there are some, else one-hot."""
  if arrays.soft_label is not None:
    return np.ascontiguousarray(arrays.soft_label, np.float32)
  return np.eye(arrays.num_classes, dtype=np.float32)[arrays.label]


def _share(batch_size: int, process: tuple[int, int]) -> tuple[int, int]:
  """Returns from where to where in a global batch the rows of a process stand."""
  first, last = ((process[0] + i) * batch_size // process[1] for i in (0, 1))
  return first, last


def _permutation(seed: int, n: int, epoch: int) -> np.ndarray:
  """Returns the order of an epoch, int32 [n]."""
  generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
  return generator.permutation(n).astype(np.int32)
