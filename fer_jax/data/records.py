"""Reads images that stay encoded in the shards of a prepared dataset and decodes them on demand."""

import hashlib
import pathlib
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.data.column_cache import open_cache, write_cache
from fer_jax.data.images import UnreadableImage, decode, in_channels
from fer_jax.faces.crop import resize
from fer_jax.runtime.errors import UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_RECORDS_AT_ONCE = 1024  # encoded
_IMAGES_AT_ONCE = 256  # decoded
_UNREADABLE = (OSError, ValueError, RuntimeError, IndexError, UnreadableImage)


class Records:
  """Images of a dataset as an array that is not in memory: rows are read by random access and decoded.

  Indexing with a slice or an array of integers returns the same as for the decoded array, uint8 [n, H, W, C]; indexing
  with an integer returns one image. Several threads may read concurrently. Each record is verified against the checksum
  computed when the columns were first read: a record that is damaged or was changed since then raises an error that
  names it.

  Args:
    shards: Shards of the dataset.
    shape: Shape (H, W, C) of the images after resizing.
    checksum: CRC-32 of each encoded image, uint32 [N].
  """

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __init__(self, shards: "Shards", shape: tuple[int, int, int], checksum: np.ndarray):
    self.shape = (len(checksum), *shape)
    self._shards, self._checksum = shards, checksum

  def __len__(self) -> int:
    return self.shape[0]

  @property
  def checksum(self) -> np.ndarray:
    """CRC-32 of each encoded image, uint32 [N]."""
    return self._checksum

  @property
  def nbytes(self) -> int:
    """Size of the decoded images in bytes."""
    return int(np.prod(self.shape, dtype=np.int64))

  def __getitem__(self, rows: Any) -> np.ndarray:
    """Decodes the images of some rows; raises UserError if one is damaged."""
    if isinstance(rows, slice):
      return self._decoded(np.arange(len(self))[rows])
    rows = np.asarray(rows)
    if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
      raise IndexError(f"rows {rows.min()} to {rows.max()} are out of range for {len(self)} images")
    rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
    return self._decoded(rows) if rows.ndim else self._decoded(rows[None])[0]

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields the images in order, decoding _PICTURES_AT_ONCE at a time."""
    for start in range(0, len(self), _IMAGES_AT_ONCE):
      yield from self[start : start + _IMAGES_AT_ONCE]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """Raises TypeError, because all images at once may not fit into memory."""
    raise TypeError(f"{len(self)} images stay encoded in their records and cannot become one array; index rows instead")

  def _decoded(self, rows: np.ndarray) -> np.ndarray:
    """Decodes rows, int64 [n] in any order, to uint8 [n, H, W, C]; raises UserError if one is damaged."""
    image = np.empty((len(rows), *self.shape[1:]), np.uint8)
    # Read in the order of the files, stored in the requested order.
    order = np.argsort(rows, kind="stable")
    for position, row, encoded in zip(
      order.tolist(), rows[order].tolist(), self._shards.read(rows[order]), strict=True
    ):
      if zlib.crc32(encoded) != self._checksum[row]:
        raise self._shards.damaged(row, "its checksum differs from when the dataset was first read")
      try:
        pixels = in_channels(decode(encoded), self.shape[3])
      except UnreadableImage as error:
        raise self._shards.damaged(row, str(error)) from error
      image[position] = resize(pixels, *self.shape[1:3]).reshape(self.shape[1:])
    return image


Images = np.ndarray | Records
"""Images of a dataset: decoded in memory, or encoded in their records."""


class Shards:
  """The array_record files of a prepared dataset as one sequence of records: split after split, in the order on disk.

  Args:
    builder: Builder of the dataset.
    splits: Names of the splits, in the order of the rows.
  """

  def __init__(self, builder: "tfds.core.DatasetBuilder", splits: Sequence[str]):
    self._files = [instruction for split in splits for instruction in builder.info.splits[split].file_instructions]
    # First row of each file and, as the last entry, the number of rows, int64 [files + 1].
    self._first = np.cumsum([0, *(instruction.take for instruction in self._files)])
    self._readers: dict[int, Any] = {}
    self._opening = threading.Lock()

  def __len__(self) -> int:
    return int(self._first[-1])

  def sizes(self) -> dict[str, int]:
    """Returns the size of each file in bytes, by name; raises UserError if a file is missing."""
    try:
      paths = [pathlib.Path(instruction.filename) for instruction in self._files]
      return {path.name: path.stat().st_size for path in paths}
    except OSError as error:
      raise UserError(f"{error.filename}: {error.strerror}; run fer_jax.apps.prepare with --overwrite") from error

  def read(self, rows: np.ndarray) -> Iterator[bytes]:
    """Yields the encoded images of rows, int64 [n] in ascending order; raises UserError if one cannot be read."""
    for example in self._examples(rows):
      yield example["image"].bytes_list.value[0]

  def examples(self) -> Iterator[Any]:
    """Yields the features of every record in order, by name; raises UserError if one cannot be read."""
    for start in range(0, len(self), _RECORDS_AT_ONCE):
      yield from self._examples(np.arange(start, min(start + _RECORDS_AT_ONCE, len(self))))

  def damaged(self, row: int, fault: str) -> UserError:
    """Returns an error that names the file, the record and the row; `fault` is the reason."""
    number = self._number(row)
    record = self._position(number, row)
    return UserError(
      f"{self._files[number].filename}, record {record} (row {row} of the dataset): {fault.splitlines()[0]}; "
      "run fer_jax.apps.prepare with --overwrite"
    )

  def _examples(self, rows: np.ndarray) -> Iterator[Any]:
    """Yields the parsed records of rows, int64 [n] in ascending order."""
    # All records of a file in one call and in the calling thread: array_record's data source starts a thread per file.
    numbers = self._number(rows)
    for number in np.unique(numbers).tolist():
      file_rows = rows[numbers == number]
      for row, record in zip(file_rows.tolist(), self._records(number, file_rows), strict=True):
        if not record:  # the only sign that a file is truncated
          raise self.damaged(row, "the record is missing")
        yield _example(record)

  def _records(self, number: int, rows: np.ndarray) -> Sequence[bytes]:
    """Reads records of one file."""
    try:
      records: Sequence[bytes] = self._reader(number).read(self._position(number, rows).tolist())
      return records
    except _UNREADABLE as error:
      raise self._first_unreadable(number, rows, str(error)) from error

  def _first_unreadable(self, number: int, rows: np.ndarray, fault: str) -> UserError:
    """Returns the error that names the first unreadable record, found by reading the rows one by one.

    Args:
      number: Number of the file.
      rows: Rows that could not be read together, int64 [n].
      fault: Reason of the failure, used if each row can be read on its own.
    """
    row = int(rows[0])
    try:
      reader = self._open(number)  # a reader may be unusable after an error
      for row in rows.tolist():
        reader.read([self._position(number, row)])
    except _UNREADABLE as error:
      return self.damaged(row, str(error))
    return self.damaged(int(rows[0]), fault)

  def _reader(self, number: int) -> Any:
    """Returns the reader of a file, opened on first use."""
    with self._opening:
      if number not in self._readers:
        self._readers[number] = self._open(number)
      return self._readers[number]

  def _open(self, number: int) -> Any:
    """Opens a file for random access."""
    from array_record.python.array_record_module import ArrayRecordReader

    # No read-ahead, which random access would discard.
    options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
    return ArrayRecordReader(self._files[number].filename, **options)

  def _number(self, rows: Any) -> Any:
    """Returns the number of the file that contains each row."""
    return np.searchsorted(self._first, rows, side="right") - 1

  def _position(self, number: int, rows: Any) -> Any:
    """Returns the positions of rows within their file."""
    return rows - self._first[number] + self._files[number].skip


def open_records(
  builder: "tfds.core.DatasetBuilder", splits: Sequence[str], shape: tuple[int, int, int]
) -> tuple[Records, dict[str, np.ndarray], str]:
  """Opens the images of a dataset as records, and its columns.

  The first call reads every record, without decoding images, and caches the columns next to the prepared dataset. A
  cache that is damaged, or of files with other sizes, is rebuilt.

  Args:
    builder: Builder of a prepared dataset of face images (no crop is applied).
    splits: Names of the splits, in the order of the rows; all are in the dataset.
    shape: Shape (H, W, C) of the images after resizing.

  Returns:
    The images; the columns label, subject, group, split and image_id, as in `Arrays` (images with equal encoded bytes
    have the same number in `image_id`); and a note for the user.

  Raises:
    UserError: If a shard is missing or a record is damaged.
  """
  shards = Shards(builder, splits)
  sizes = shards.sizes()
  folder = pathlib.Path(builder.data_dir, "arrays", "records")
  cached = open_cache(folder, sizes)
  if cached is not None:
    columns = dict(cached[0])
  else:
    columns = _read_columns(shards)
    columns["split"] = np.repeat(splits, [builder.info.splits[split].num_examples for split in splits])
    try:
      write_cache(folder, columns, source=sizes)
    except OSError as error:
      print(f"warning: cannot cache the columns in {folder} ({error.strerror or error}): every run reads all records")
  note = (
    "the images are decoded from their records on demand (config.data.residence); images count as equal if their files "
    "are equal byte by byte"
  )
  return Records(shards, shape, columns.pop("checksum")), columns, note


def number_groups(groups: Sequence[bytes]) -> np.ndarray:
  """Numbers groups in order of first appearance; a row without a group forms a group of its own.

  Args:
    groups: Name of each row's group; b"" for a row without a group.

  Returns:
    Group numbers, int32 [N].
  """
  numbers: dict[bytes | int, int] = {}
  # A row without a group is represented by its number, which no name (bytes) is equal to.
  return np.array([numbers.setdefault(group or row, len(numbers)) for row, group in enumerate(groups)], np.int32)


def _read_columns(shards: Shards) -> dict[str, np.ndarray]:
  """Reads every record once; returns all columns except the splits."""
  from tensorflow_datasets.core import utils as tfds_utils

  total = len(shards)
  label, image_id, checksum = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.uint32)
  subject: list[str] = []
  group: list[bytes] = []
  ids: dict[bytes, int] = {}
  names: dict[bytes, str] = {}  # one str object per person, shared by all rows of the person
  progress = tfds_utils.tqdm(shards.examples(), total=total, desc="Reading columns", unit=" records", leave=False)
  for row, example in enumerate(progress):
    encoded = example["image"].bytes_list.value[0]
    label[row] = example["label"].int64_list.value[0]
    checksum[row] = zlib.crc32(encoded)
    # Digests instead of the encoded images: these may not fit into memory.
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    image_id[row] = ids.setdefault(digest, len(ids))
    person = example["subject"].bytes_list.value[0]
    subject.append(names.setdefault(person, person.decode()))
    group.append(example["group"].bytes_list.value[0])
  return {
    "label": label,
    "subject": np.array(subject),
    "group": number_groups(group),
    "image_id": image_id,
    "checksum": checksum,
  }


def _example(record: bytes) -> Any:
  """Parses a record into its features, by name.

  The decoder of TFDS converts all features to arrays, which takes eight times as long.
  """
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example.FromString(record).features.feature
