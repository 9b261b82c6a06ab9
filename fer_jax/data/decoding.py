"""Decodes, crops and resizes all images of a prepared dataset once; later runs memory-map the cached result."""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fer_jax.data.column_cache import Columns, open_cache, write_cache
from fer_jax.data.images import UnreadableImage, decode, in_channels
from fer_jax.data.records import number_groups
from fer_jax.faces.cascades import HaarDetector
from fer_jax.faces.crop import resize
from fer_jax.faces.framing import SMALLEST_FACE, Framing
from fer_jax.runtime.errors import UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_CROPPED = ("fixed", "detector")
_RECORDS_AT_ONCE = 256  # small, because photographs are large


def cached_columns(
  builder: "tfds.core.DatasetBuilder", splits: Sequence[str], shape: tuple[int, int, int], crop: str
) -> Columns:
  """Returns the columns of a prepared dataset from its cache; without a valid one, decodes them and writes the cache.

  Args:
    builder: Builder of the prepared dataset.
    splits: Names of the splits, in the order of the rows.
    shape: Shape (H, W, C) of the decoded images.
    crop: Crop of the images: "face" or "none" for no crop, "fixed" or "detector".

  Returns:
    The columns (image, label, subject, group, split and, for FER2013, votes) and the notes on the crop.

  Raises:
    UserError: If a record or an image cannot be read.
  """
  height, width, channels = shape
  suffix = f"-{crop}" if crop in _CROPPED else ""
  folder = pathlib.Path(builder.data_dir, "arrays", f"{height}x{width}x{channels}{suffix}")
  cached = open_cache(folder)
  if cached is not None:
    return cached
  columns, notes = _read_columns(builder, splits, height, width, crop)
  try:
    write_cache(folder, columns, notes)
  except OSError as error:
    print(
      f"warning: cannot cache the arrays in {folder} ({error.strerror or error}): "
      "every run will decode the images again"
    )
    return columns, notes
  # Reopened: memory-mapped images replace the arrays just decoded.
  return open_cache(folder) or (columns, notes)


def _read_columns(
  builder: "tfds.core.DatasetBuilder", splits: Sequence[str], height: int, width: int, crop: str
) -> Columns:
  """Decodes a prepared dataset, split by split, each in its order on disk."""
  total = sum(builder.info.splits[split].num_examples for split in splits)
  image = np.empty((total, height, width, builder.info.features["image"].shape[2]), np.uint8)
  framing = None
  if crop in _CROPPED:
    detector = HaarDetector(smallest_face=SMALLEST_FACE) if crop == "detector" else None
    framing = Framing(height, builder.info.metadata["fixed_squares"], detector)
  fields: dict[str, list[Any]] = {
    key: [] for key in builder.info.features if key in ("label", "subject", "group", "votes")
  }
  # Only cropping takes long enough for a progress bar.
  shows_progress = framing is not None and sys.stderr.isatty()
  for row, (decoded, record) in enumerate(decoded_records(builder, splits, shows_progress)):
    framed = decoded
    if framing is not None:
      framed = framing(decoded, record["subject"].decode(), record["file"].decode())
    # -> [H, W, C]; `resize` returns [H, W] if C is 1
    image[row] = resize(framed, height, width).reshape(image.shape[1:])
    for key, values in fields.items():
      values.append(record[key])
  columns = {
    "image": image,
    "label": np.array(fields["label"], np.int32),
    "subject": np.array([subject.decode() for subject in fields["subject"]]),
    "group": number_groups(fields["group"]),
    "split": np.repeat(splits, [builder.info.splits[split].num_examples for split in splits]),
  }
  columns |= {"votes": np.stack(fields["votes"])} if "votes" in fields else {}
  return columns, framing.notes() if framing is not None else ()


def decoded_records(
  builder: "tfds.core.DatasetBuilder", splits: Sequence[str], shows_progress: bool = False
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """Yields the decoded image and the record of each example, split by split, each in its order on disk.

  Args:
    builder: Builder of the prepared dataset.
    splits: Names of the splits.
    shows_progress: Whether to print a progress bar for each split.

  Yields:
    Tuples (image, record): the image in its original size, uint8 [h, w] or [h, w, 3], and the record of TFDS.

  Raises:
    UserError: A record or an image cannot be read.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import utils as tfds_utils

  row, channels = 0, builder.info.features["image"].shape[2]
  for split in splits:
    try:
      # Images stay encoded here: `decode` below gives the same pixels as in prediction.
      source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
      for record in tfds_utils.tqdm(
        _records(source), total=len(source), desc="Cropping", unit=" images", leave=False, disable=not shows_progress
      ):
        decoded = in_channels(decode(record["image"]), channels)
        row += 1
        yield decoded, record
    except (OSError, ValueError, RuntimeError, IndexError, UnreadableImage, cv2.error) as error:
      raise UserError(
        f"the dataset prepared in {builder.data_dir} is damaged (record {row}: {str(error).splitlines()[0]}); "
        "run fer_jax.apps.prepare with --overwrite"
      ) from error


def _records(source: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Yields the records of a split, reading _RECORDS_AT_ONCE at a time."""
  for start in range(0, len(source), _RECORDS_AT_ONCE):
    yield from source.__getitems__(range(start, min(start + _RECORDS_AT_ONCE, len(source))))  # type: ignore[attr-defined]
