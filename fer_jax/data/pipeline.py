"""Batches of a split, shuffled for training or in order for evaluation. The only file that imports grain.

One grain element is one batch. Training reads an endless stream: the permutations of the epochs, one after another.
Batch k consists of rows k B to (k + 1) B of the stream, so no row is skipped or repeated within an epoch, whatever the
batch size. A permutation is a function of the seed and the epoch, so any batch can be made without its predecessors.

Batches of a dataset in memory are made on demand. Batches of a streamed dataset are decoded ahead by one thread per
core; together, the threads hold at most AHEAD_BYTES of images, or two batches.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import SupportsIndex

import grain
import numpy as np

from fer_jax.data.arrays import Arrays
from fer_jax.data.batch import Batch
from fer_jax.runtime import provenance

# Number of batches in a stream: more than any run needs, and within the range of every index type in grain.
_STREAM_LENGTH = 2**31 - 1
AHEAD_BYTES = 512 * 1024**2
"""Maximum bytes of images that the threads of one iterator decode ahead of the batch in use."""
# No threads: a batch is made in the thread that requests it.
_NO_THREADS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


class ShuffledBatches:
  """Endless stream of a split's training batches, as a random-access source.

  Args:
    arrays: Dataset.
    split: Name of the split.
    batch_size: Number of rows of a global batch.
    seed: Random seed of the permutations.
    host: Whether to gather images and targets on the host; if False, a batch contains only indices.
    process: Index of this process and number of processes; each process yields its share of every global batch.

  Attributes:
    ahead_bytes: Bytes of the images of one batch if batches are worth decoding ahead (streamed dataset); else 0.
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
    # Cached: consecutive batches use the same epoch.
    self._permutation = functools.lru_cache(maxsize=4)(functools.partial(_permutation, seed, len(self._rows)))

  def __len__(self) -> int:
    return _STREAM_LENGTH

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
    """Returns the rows `start` to `stop` of the stream, as positions in the split, int32 [stop - start]."""
    epoch, offset = divmod(start, len(self._rows))
    length = stop - start
    rows = self._permutation(epoch)[offset : offset + length]
    # A batch can extend over the end of an epoch, or over several epochs of a small split.
    while len(rows) < length:
      epoch += 1
      rows = np.concatenate([rows, self._permutation(epoch)[: length - len(rows)]])
    return rows


class Gather:
  """Gathers rows of the dataset into a batch on the host."""

  def __init__(self, arrays: Arrays):
    self._image, self._target = arrays.image, targets(arrays)

  def __call__(self, index: np.ndarray, mask: np.ndarray) -> Batch:
    """Returns the batch of the given rows, with images and targets.

    Args:
      index: Rows of the dataset, int32 [b].
      mask: Validity of each row, bool [b].
    """
    return Batch(index, mask, self._image[index], self._target[index])


class EvaluationBatches:
  """Batches of an evaluation, as a random-access source; see `evaluation_batches` for the arguments."""

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
    # Rounded up; an empty split has no batches, whatever the minimum.
    self._count = max(-(-len(self._rows) // batch_size), batches) if len(self._rows) else 0
    self.ahead_bytes = _image_bytes(arrays, self._last - self._first) if arrays.streamed and host else 0

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, k: SupportsIndex) -> Batch:
    start, n = int(k) * self._batch_size, len(self._rows)
    position = np.arange(start + self._first, start + self._last)
    # Positions after the end repeat the last row and are masked.
    mask = position < n
    index = self._rows[np.minimum(position, n - 1)].astype(np.int32)
    batch = self._gather(index, mask) if self._gather else Batch(index, mask)
    return batch._replace(view=self._views)


def training_iterator(batches: ShuffledBatches, threads: int | None = None) -> grain.DatasetIterator:
  """Returns an iterator over the stream whose position can be saved and restored; it must be closed after use.

  Batches in memory are made on demand: the step runs asynchronously, and making a batch is cheaper than passing it from
  a thread to the loop (measure with `apps.bench --what=pipeline`).

  Args:
    batches: Training batches.
    threads: Number of threads that decode batches ahead, 0 for none. The default is the number of cores of the process
      for a streamed dataset and 0 for a dataset in memory.
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
  """Yields every row of a split once, in order, in batches of equal size; the last batch is padded and masked.

  Args:
    arrays: Dataset.
    split: Name of the split.
    batch_size: Number of rows of a global batch.
    host: Whether to gather images and targets on the host; if False, a batch contains only indices.
    batches: Minimum number of batches; additional ones are fully masked. Replicas that are trained in lockstep need
      equal numbers of batches.
    view: Number of the view to evaluate; 0 for the unchanged images.
    process: Index of this process and number of processes; each process yields its share of every global batch.
  """
  source = EvaluationBatches(arrays, split, batch_size, host=host, batches=batches, view=view, process=process)
  if not source.ahead_bytes:
    yield from (source[k] for k in range(len(source)))
    return
  iterator = iter(grain.MapDataset.source(source).to_iter_dataset(_read_options(source.ahead_bytes)))
  with contextlib.closing(iterator):
    yield from iterator


def _read_options(batch_bytes: int, threads: int | None = None) -> grain.ReadOptions:
  """Returns the number of threads and of batches made ahead; `batch_bytes` is 0 for a dataset in memory."""
  threads = (provenance.cores() if batch_bytes else 0) if threads is None else threads
  if not threads:
    return _NO_THREADS
  # Two batches per thread within the limit of AHEAD_BYTES, but at least two.
  prefetched = max(2, min(2 * threads, AHEAD_BYTES // max(1, batch_bytes)))
  return grain.ReadOptions(num_threads=min(threads, prefetched), prefetch_buffer_size=prefetched)


def _image_bytes(arrays: Arrays, rows: int) -> int:
  """Returns the bytes of the decoded images of some rows (uint8)."""
  return rows * math.prod(arrays.image.shape[1:])


def targets(arrays: Arrays) -> np.ndarray:
  """Returns the label distributions of all rows.

  Args:
    arrays: Dataset of N examples and K classes.

  Returns:
    Soft labels if the dataset has them, else one-hot labels, float32 [N, K].
  """
  if arrays.soft_label is not None:
    return np.ascontiguousarray(arrays.soft_label, np.float32)
  return np.eye(arrays.num_classes, dtype=np.float32)[arrays.label]


def _share(batch_size: int, process: tuple[int, int]) -> tuple[int, int]:
  """Returns the first row and the end of a process's share of a global batch."""
  # Rounded down at both ends: the shares are contiguous and differ by at most one row.
  first, last = ((process[0] + i) * batch_size // process[1] for i in (0, 1))
  return first, last


def _permutation(seed: int, n: int, epoch: int) -> np.ndarray:
  """Returns the order of the rows in an epoch, int32 [n]."""
  generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
  return generator.permutation(n).astype(np.int32)
