"""What a dataset is once it is prepared: a few arrays, decoded and resized once, memory-mapped afterwards."""

import dataclasses
import math
import pathlib
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fer_jax.data import builders
from fer_jax.data.column_cache import Columns, open_cache, write_cache
from fer_jax.data.records import Images, Records, number_groups, open_records
from fer_jax.errors import UserError
from fer_jax.faces.crop import resize
from fer_jax.faces.detection import HaarDetector
from fer_jax.faces.framing import SMALLEST_FACE, Framing
from fer_jax.faces.pictures import UnreadablePicture, decode, in_channels

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

SPLITS = ("train", "validation", "test")
LABELS = ("original", "ferplus_hard", "ferplus_soft", "ferplus_blend")
CROPS = ("auto", "none", "fixed", "detector")
RESIDENCES = ("auto", "device", "host", "stream")
_CUT = ("fixed", "detector")
# Decoded images up to this size are kept as one file. It is fixed, so that all processes of a run decide alike.
_HOST_BYTES = 32 * 1024**3

# Photographs are large.
_RECORDS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A whole dataset. Let N be its examples, H, W, C an image's height, width and channels, K the classes.

  Attributes:
    image: uint8 [N, H, W, C]; `Records` where they are decoded as they are needed.
    label: int32 [N], the class of each example.
    subject: str [N], the person in the picture; "" where the dataset does not say.
    group: int32 [N]; frames of one sequence, or exact duplicates, share a group.
    split: str [N], each one of SPLITS.
    class_names: K names, in the order of the labels.
    soft_label: float32 [N, K], rows that sum to 1 (annotators' votes); None where labels are hard.
    notes: what a user should know about how the arrays came about (rows left out and why, say).
    origin: int32 [N], the row of the picture that each row was made of, itself for an original; originals come first.
      None where nothing was expanded (`data.expansion`).
    crop: how the images were cut: "face" where they were faces already; of photographs "detector", "fixed" or "none",
      as `load` has them.
    picture: int32 [N], equal where pictures are, numbered as they appear; None where their pixels have to be compared.
    fingerprint: of the dataset as `load` found it, before it was divided or expanded; "" where it came otherwise.
  """

  image: Images
  label: np.ndarray
  subject: np.ndarray
  group: np.ndarray
  split: np.ndarray
  class_names: tuple[str, ...]
  soft_label: np.ndarray | None = None
  notes: tuple[str, ...] = ()
  origin: np.ndarray | None = None
  crop: str = "face"
  picture: np.ndarray | None = None
  fingerprint: str = ""

  def __len__(self) -> int:
    return len(self.label)

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.class_names)

  @property
  def streamed(self) -> bool:
    """Whether images are decoded as they are needed."""
    return isinstance(self.image, Records)

  def rows(self, split: str) -> np.ndarray:
    """Returns the positions, int64 [n], of a split's examples in dataset order."""
    return np.flatnonzero(self.split == split)


def load(
  name: str,
  data_dir: str | None = None,
  *,
  image_size: int | None = None,
  labels: str = "original",
  crop: str = "auto",
  residence: str = "auto",
) -> Arrays:
  """Loads a prepared dataset; one that needs no files is prepared on the spot.

  The first load decodes, crops and resizes every image once and caches the arrays beside the prepared dataset;
  later ones map the cached images into memory. A damaged cache is rebuilt.

  Args:
    name: a dataset of `builders.names()`, or with one of its configurations, "ck_plus/neutral".
    data_dir: the folder that holds prepared datasets; None is TFDS's own (the environment variable
      TFDS_DATA_DIR, or ~/tensorflow_datasets).
    image_size: height and width in pixels that images are resized to, by area averaging where they shrink and
      bilinearly where they grow; None leaves them as they are, and takes 128 for photographs.
    labels: "original"; or, where a dataset has FER+ votes, "ferplus_hard" (the emotion with most votes) or
      "ferplus_soft" (with `soft_label`, the emotions' shares of the votes, as well), both over eight
      classes (contempt is 7). `ferplus.labels` says which rows are left out and how ties are broken. "ferplus_blend"
      keeps all rows, classes and labels of "original", and blends votes into the soft labels: see `ferplus.blended`.
    crop: of photographs to the face: "detector" cuts out the largest face that `HaarDetector` finds and, where it
      finds none, the fixed part; "fixed" cuts the same part out of every photograph (the papers are silent on it: it is
      our choice, for each dataset); "none" squeezes whole photographs into the square. "auto" is "detector" for
      photographs, and "none" for the datasets of faces, which can have nothing else.
    residence: "stream" leaves the images encoded in their records (of faces with their original labels alone), "host"
      and "device" decode them all at first; "auto" streams what would be more than 32 GiB, where it can.

  Raises:
    UserError: if an argument is out of its range, the dataset is not prepared or damaged, FER+ votes are asked for and
      absent, a crop is asked for of faces, or
      "stream" of what cannot be streamed.
  """
  if labels not in LABELS:
    raise UserError(f"labels={labels!r} is unknown; expected {', '.join(LABELS)}")
  if image_size is not None and image_size < 1:
    raise UserError(f"image_size={image_size} is no size; expected a whole number of pixels, 1 or more")
  if crop not in CROPS:
    raise UserError(f"crop={crop!r} is unknown; expected {', '.join(CROPS)}")
  if residence not in RESIDENCES:
    raise UserError(f"residence={residence!r} is unknown; expected {', '.join(RESIDENCES)}")
  builder = builders.make_builder(name, data_dir)
  if not builders.is_prepared(builder):
    builder = _prepare_or_explain(name, data_dir, builder)
  crop = _resolve_crop(name, builder, crop)
  if residence == "stream":
    _check_streams(name, labels, crop)
  if residence == "stream" or (residence == "auto" and _streams(builder, image_size, labels, crop)):
    return _fingerprinted(stream(builder, image_size))
  columns, notes = _cached_columns(builder, image_size, crop)
  arrays = Arrays(
    image=columns["image"],
    label=columns["label"],
    subject=columns["subject"],
    group=columns["group"],
    split=columns["split"],
    class_names=tuple(builder.info.features["label"].names),
    notes=(*(builder.info.metadata or {}).get("warnings", ()), *notes),
    crop=crop,
  )
  return _fingerprinted(
    arrays
    if labels == "original"
    else _with_ferplus(arrays, columns.get("votes"), labels, f"`{_prepare_command(name, data_dir)} --overwrite`")
  )


def _fingerprinted(arrays: Arrays) -> Arrays:
  """Returns a dataset that knows its checksum, the images' pixels (of streamed ones their encoding) included."""
  image, found = arrays.image, 0
  columns = [arrays.label, arrays.subject, arrays.group, arrays.split, np.array(arrays.class_names)]
  columns += [] if arrays.soft_label is None else [arrays.soft_label]
  if isinstance(image, Records):
    columns.append(image.checksum)
  else:
    for start in range(0, len(image), _RECORDS_AT_ONCE):
      found = zlib.crc32(np.ascontiguousarray(image[start : start + _RECORDS_AT_ONCE]).data, found)
  for column in columns:
    found = zlib.crc32(np.ascontiguousarray(column).view(np.uint8).data, found)
  return dataclasses.replace(arrays, fingerprint=f"{found:08x}")


def stream(builder: "tfds.core.DatasetBuilder", image_size: int | None = None) -> Arrays:
  """Loads a prepared dataset of faces whose images stay in their records; see `load`."""
  splits = [split for split in SPLITS if split in builder.info.splits]
  image, columns, note = open_records(builder, splits, _image_shape(builder, image_size))
  return Arrays(
    image=image,
    label=columns["label"],
    subject=columns["subject"],
    group=columns["group"],
    split=columns["split"],
    picture=columns["picture"],
    class_names=tuple(builder.info.features["label"].names),
    notes=(*(builder.info.metadata or {}).get("warnings", ()), note),
  )


def _check_streams(name: str, labels: str, crop: str) -> None:
  if crop != "face":
    raise UserError(
      f"config.data.residence='stream' is for datasets of faces, and {name} is photographs that have to be cut "
      f"(crop={crop!r}); use config.data.residence='host'"
    )
  if labels != "original":
    raise UserError(
      f"config.data.residence='stream' goes with config.data.labels='original', not {labels!r}: use "
      "config.data.residence='host'"
    )


def _streams(builder: "tfds.core.DatasetBuilder", image_size: int | None, labels: str, crop: str) -> bool:
  total = sum(split.num_examples for split in builder.info.splits.values())
  too_large = total * math.prod(_image_shape(builder, image_size)) > _HOST_BYTES
  return too_large and labels == "original" and crop == "face"


def _image_shape(builder: "tfds.core.DatasetBuilder", image_size: int | None) -> tuple[int, int, int]:
  """Returns the height, width and channels that images are brought to."""
  height, width, channels = builder.info.features["image"].shape
  size = image_size or (builder.info.metadata or {}).get("image_size")
  return (size, size, channels) if size else (height, width, channels)


def _prepare_command(name: str, data_dir: str | None) -> str:
  place = f" --data_dir={data_dir}" if data_dir else ""
  return f"python -m fer_jax.apps.prepare --dataset={name} --manual_dir=DIR{place}"


def _prepare_or_explain(
  name: str, data_dir: str | None, builder: "tfds.core.DatasetBuilder"
) -> "tfds.core.DatasetBuilder":
  files = builders.required_files(name)
  if files:
    raise UserError(
      f"{name} is not prepared in {builder.data_dir}: put {files} into a folder DIR and run "
      f"`{_prepare_command(name, data_dir)}`; configs/hsic.py:demo needs no data"
    )
  print(f"{name} is not prepared yet: writing it to {builder.data_dir}", flush=True)
  return builders.prepare(name, data_dir)


def _with_ferplus(arrays: Arrays, votes: np.ndarray | None, labels: str, prepare_again: str) -> Arrays:
  """Replaces the labels of FER2013 by those of its FER+ votes, uint8 [N, 10]."""
  from fer_jax.data.builders.fer2013 import ferplus

  if votes is None:
    raise UserError(f"labels={labels!r} needs FER+ votes, which only fer2013 has; use labels='original'")
  if not votes.any():
    raise UserError(
      f"labels={labels!r} needs FER+ votes, and {ferplus.FILE} was not there when the dataset was prepared: "
      f"put it beside fer2013.csv in DIR and run {prepare_again}"
    )
  if labels == "ferplus_blend":
    return dataclasses.replace(arrays, soft_label=ferplus.blended(votes, arrays.label))
  keep, hard, soft = ferplus.labels(votes, arrays.label)
  left_out = ", ".join(f"{np.sum(~keep[arrays.rows(split)])} of {split}" for split in SPLITS)
  note = f"FER+: {np.sum(~keep)} rows left out ({left_out}): most voted as unknown or no face, or no vote at all"
  return Arrays(
    image=arrays.image[keep],
    label=hard[keep],
    subject=arrays.subject[keep],
    group=arrays.group[keep],
    split=arrays.split[keep],
    class_names=ferplus.EMOTIONS,
    soft_label=soft[keep] if labels == "ferplus_soft" else None,
    notes=(*arrays.notes, note),
  )


def _resolve_crop(name: str, builder: "tfds.core.DatasetBuilder", crop: str) -> str:
  """Returns "none", "fixed" or "detector" for photographs, "face" for faces."""
  if (builder.info.metadata or {}).get("framing") == "photograph":
    return "detector" if crop == "auto" else crop
  if crop in ("fixed", "detector"):
    raise UserError(f"crop={crop!r} is for photographs, and the images of {name} are faces already; use crop='auto'")
  return "face"


def _cached_columns(builder: "tfds.core.DatasetBuilder", image_size: int | None, crop: str) -> Columns:
  """Returns a dataset's columns, from the cache where it is whole; else reads them and writes the cache."""
  height, width, channels = _image_shape(builder, image_size)
  kind = f"-{crop}" if crop in _CUT else ""
  folder = pathlib.Path(builder.data_dir, "arrays", f"{height}x{width}x{channels}{kind}")
  cached = open_cache(folder)
  if cached is not None:
    return cached
  columns, notes = _read_columns(builder, height, width, crop)
  try:
    write_cache(folder, columns, notes)
  except OSError as error:
    print(f"warning: cannot cache the arrays in {folder} ({error.strerror or error}): every run decodes again")
    return columns, notes
  return open_cache(folder) or (columns, notes)


def _read_columns(builder: "tfds.core.DatasetBuilder", height: int, width: int, crop: str) -> Columns:
  """Decodes a prepared dataset: train, validation, test, each in its order on disk."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import utils as tfds_utils

  splits = [split for split in SPLITS if split in builder.info.splits]
  total = sum(builder.info.splits[split].num_examples for split in splits)
  image = np.empty((total, height, width, builder.info.features["image"].shape[2]), np.uint8)
  framing = None
  if crop in _CUT:
    detector = HaarDetector(smallest_face=SMALLEST_FACE) if crop == "detector" else None
    framing = Framing(height, builder.info.metadata["fixed_squares"], detector)
  fields: dict[str, list[Any]] = {
    key: [] for key in builder.info.features if key in ("label", "subject", "group", "votes")
  }
  row = 0
  try:
    for split in splits:
      source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
      quiet = framing is None or not sys.stderr.isatty()
      for record in tfds_utils.tqdm(
        _records(source), total=len(source), desc="Cropping", unit=" pictures", leave=False, disable=quiet
      ):
        picture = in_channels(decode(record["image"]), image.shape[3])
        if framing is not None:
          picture = framing(picture, record["subject"].decode(), record["file"].decode())
        image[row] = resize(picture, height, width).reshape(image.shape[1:])
        row += 1
        for key, values in fields.items():
          values.append(record[key])
  except (OSError, ValueError, RuntimeError, IndexError, UnreadablePicture, cv2.error) as error:
    raise UserError(
      f"the dataset prepared in {builder.data_dir} is damaged (record {row}: {str(error).splitlines()[0]}); "
      "run fer_jax.apps.prepare with --overwrite"
    ) from error
  columns = {
    "image": image,
    "label": np.array(fields["label"], np.int32),
    "subject": np.array([subject.decode() for subject in fields["subject"]]),
    "group": number_groups(fields["group"]),
    "split": np.repeat(splits, [builder.info.splits[split].num_examples for split in splits]),
  }
  columns |= {"votes": np.stack(fields["votes"])} if "votes" in fields else {}
  return columns, framing.notes() if framing is not None else ()


def _records(source: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Yields the records of a split, a few read at a time."""
  for start in range(0, len(source), _RECORDS_AT_ONCE):
    yield from source.__getitems__(range(start, min(start + _RECORDS_AT_ONCE, len(source))))  # type: ignore[attr-defined]
