"""A prepared dataset as a few arrays."""

import dataclasses
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from fer_jax.data import builders
from fer_jax.data.decoding import cached_columns
from fer_jax.data.records import Images, Records, open_records
from fer_jax.runtime.errors import UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

SPLITS = ("train", "validation", "test")
LABELS = ("original", "ferplus_hard", "ferplus_soft", "ferplus_blend")
CROPS = ("auto", "none", "fixed", "detector")
RESIDENCES = ("auto", "device", "host", "stream")
# Decoded images up to this size are kept in one file. The limit is a constant, and not the free memory of a machine,
# because all processes of a run must take the same decision.
_MAX_DECODED_BYTES = 32 * 1024**3

# Number of images per checksum update. Small, because photographs are large.
_IMAGES_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A whole dataset of N examples and K classes, with images of height H, width W and C channels.

  Attributes:
    image: Images, uint8 [N, H, W, C]; a `Records` if they are decoded on demand.
    label: Class of each example, int32 [N].
    subject: Person in each image, str [N]; "" if the dataset does not identify the person.
    group: Group number of each example, int32 [N]; frames of one sequence and exact duplicates share a group.
    split: Split of each example, str [N]; one of SPLITS, or "" for an example that is in no split.
    class_names: Names of the K classes, in the order of the labels.
    soft_label: Class distribution of each example (the annotators' votes), float32 [N, K], rows that sum to 1; None for
      hard labels.
    notes: Remarks for the user on how the arrays were made, for example which rows were left out and why.
    origin: Row of the original image of each example, int32 [N]; an original refers to itself, and originals come
      first. None if the dataset was not expanded (see `data.expansion`).
    crop: Face crop of the images: "face" if the dataset contains face crops already; "detector", "fixed" or "none" for
      photographs, as in `load`.
    image_id: Number of the distinct image in each row, int32 [N], in order of first appearance; None if it has to be
      found by comparing pixels.
    fingerprint: Checksum (CRC-32, hexadecimal) of the dataset as loaded, before it is split or expanded; "" for a
      dataset that was not made by `load`.
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
  image_id: np.ndarray | None = None
  fingerprint: str = ""

  def __len__(self) -> int:
    return len(self.label)

  @property
  def num_classes(self) -> int:
    """Number of classes, K."""
    return len(self.class_names)

  @property
  def streamed(self) -> bool:
    """Whether images are decoded on demand."""
    return isinstance(self.image, Records)

  def rows(self, split: str) -> np.ndarray:
    """Returns the positions of a split's examples, int64 [n], in dataset order."""
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
  """Loads a prepared dataset; a dataset that needs no source files is prepared on first use.

  The first call decodes, crops and resizes every image and caches the arrays next to the prepared dataset. Later calls
  memory-map the cached images. A damaged cache is rebuilt.

  Args:
    name: Name of a dataset from `builders.names()`, optionally with a configuration, for example "ck_plus/neutral".
    data_dir: Folder of the prepared datasets; None selects the default of TFDS (the environment variable TFDS_DATA_DIR,
      or ~/tensorflow_datasets).
    image_size: Height and width of the images in pixels. Images that shrink are resized by area averaging, images that
      grow bilinearly. None keeps the original size, and selects 128 for photographs.
    labels: Label set. "original" keeps the labels of the dataset. If the dataset has FER+ votes, "ferplus_hard" is the
      emotion with the most votes, and "ferplus_soft" adds the emotions' shares of the votes as `soft_label`; both have
      eight classes (contempt is 7), and `ferplus.labels` documents the excluded rows and the tie-breaking.
      "ferplus_blend" keeps the rows, classes and labels of "original" and blends the votes into `soft_label`; see
      `ferplus.blended`.
    crop: Method that crops photographs to the face. "detector" cuts out the largest face found by `HaarDetector`, or
      the fixed square if it finds none. "fixed" cuts the same square out of every photograph (not specified in the
      papers; chosen here for each dataset). "none" resizes whole photographs to the square. "auto" is "detector" for
      photographs and "none" for datasets of face images, which accept only these two.
    residence: Storage of the images. "stream" leaves them encoded in their records (only for face images with original
      labels). "host" and "device" decode all of them first. "auto" streams a dataset of more than 32 GiB if possible.

  Returns:
    The dataset, with its fingerprint.

  Raises:
    UserError: If an argument is out of range, the dataset is not prepared or is damaged, `labels` requires FER+ votes
      that are absent, `crop` requires photographs, or the dataset cannot be streamed.
  """
  if labels not in LABELS:
    raise UserError(f"labels={labels!r} is unknown; expected {', '.join(LABELS)}")
  if image_size is not None and image_size < 1:
    raise UserError(f"image_size={image_size}: expected a whole number of pixels, 1 or more")
  if crop not in CROPS:
    raise UserError(f"crop={crop!r} is unknown; expected {', '.join(CROPS)}")
  if residence not in RESIDENCES:
    raise UserError(f"residence={residence!r} is unknown; expected {', '.join(RESIDENCES)}")
  builder = prepared_builder(name, data_dir)
  crop = _resolve_crop(name, builder, crop)
  if residence == "stream":
    _check_streamable(name, labels, crop)
  if residence == "stream" or (residence == "auto" and _must_stream(builder, image_size, labels, crop)):
    return _with_fingerprint(stream(builder, image_size))
  columns, notes = cached_columns(builder, _splits(builder), _image_shape(builder, image_size), crop)
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
  return _with_fingerprint(
    arrays
    if labels == "original"
    else _with_ferplus(arrays, columns.get("votes"), labels, f"`{_prepare_command(name, data_dir)} --overwrite`")
  )


def _with_fingerprint(arrays: Arrays) -> Arrays:
  """Returns the dataset with its checksum, which covers the columns and the pixels.

  For a streamed dataset, the checksums of the encoded images replace the pixels.
  """
  image, checksum = arrays.image, 0
  columns = [arrays.label, arrays.subject, arrays.group, arrays.split, np.array(arrays.class_names)]
  columns += [] if arrays.soft_label is None else [arrays.soft_label]
  if isinstance(image, Records):
    columns.append(image.checksum)
  else:
    # In chunks: the images may be memory-mapped and larger than the memory.
    for start in range(0, len(image), _IMAGES_AT_ONCE):
      checksum = zlib.crc32(np.ascontiguousarray(image[start : start + _IMAGES_AT_ONCE]).data, checksum)
  # Viewed as bytes, because CRC-32 does not accept the str dtype.
  for column in columns:
    checksum = zlib.crc32(np.ascontiguousarray(column).view(np.uint8).data, checksum)
  return dataclasses.replace(arrays, fingerprint=f"{checksum:08x}")


def stream(builder: "tfds.core.DatasetBuilder", image_size: int | None = None) -> Arrays:
  """Loads a prepared dataset of face images that stay encoded in their records.

  Args:
    builder: Builder of the prepared dataset.
    image_size: Height and width of the images in pixels; None as in `load`.

  Returns:
    The dataset, without a fingerprint.
  """
  image, columns, note = open_records(builder, _splits(builder), _image_shape(builder, image_size))
  return Arrays(
    image=image,
    label=columns["label"],
    subject=columns["subject"],
    group=columns["group"],
    split=columns["split"],
    image_id=columns["image_id"],
    class_names=tuple(builder.info.features["label"].names),
    notes=(*(builder.info.metadata or {}).get("warnings", ()), note),
  )


def _check_streamable(name: str, labels: str, crop: str) -> None:
  """Raises UserError if the dataset cannot be streamed with these labels and this crop."""
  if crop != "face":
    raise UserError(
      f"config.data.residence='stream' requires a dataset of face images, and {name} contains photographs that must be "
      f"cropped (crop={crop!r}); use config.data.residence='host'"
    )
  if labels != "original":
    raise UserError(
      f"config.data.residence='stream' requires config.data.labels='original', not {labels!r}; use "
      "config.data.residence='host'"
    )


def _must_stream(builder: "tfds.core.DatasetBuilder", image_size: int | None, labels: str, crop: str) -> bool:
  """Returns whether residence "auto" streams the dataset: too large to decode, and possible to stream."""
  total = sum(split.num_examples for split in builder.info.splits.values())
  too_large = total * math.prod(_image_shape(builder, image_size)) > _MAX_DECODED_BYTES
  return too_large and labels == "original" and crop == "face"


def _splits(builder: "tfds.core.DatasetBuilder") -> list[str]:
  """Returns the names of the dataset's splits in the order of SPLITS."""
  return [split for split in SPLITS if split in builder.info.splits]


def _image_shape(builder: "tfds.core.DatasetBuilder", image_size: int | None) -> tuple[int, int, int]:
  """Returns the height, width and channels of the images after resizing."""
  height, width, channels = builder.info.features["image"].shape
  size = image_size or (builder.info.metadata or {}).get("image_size")
  return (size, size, channels) if size else (height, width, channels)


def _prepare_command(name: str, data_dir: str | None) -> str:
  """Returns the command that prepares a dataset, for error messages."""
  data_dir_flag = f" --data_dir={data_dir}" if data_dir else ""
  return f"python -m fer_jax.apps.prepare --dataset={name} --manual_dir=DIR{data_dir_flag}"


def prepared_builder(name: str, data_dir: str | None) -> "tfds.core.DatasetBuilder":
  """Returns the builder of a prepared dataset; a dataset that needs no source files is prepared on first use.

  Args:
    name: Name of the dataset; see `load`.
    data_dir: Folder of the prepared datasets; see `load`.

  Raises:
    UserError: The dataset is not prepared and needs files.
  """
  builder = builders.make_builder(name, data_dir)
  if builders.is_prepared(builder):
    return builder
  files = builders.required_files(name)
  if files:
    raise UserError(
      f"{name} is not prepared in {builder.data_dir}: run `{_prepare_command(name, data_dir)}` with a folder DIR that "
      f"contains {files}"
    )
  print(f"{name} is not prepared yet: writing it to {builder.data_dir}", flush=True)
  return builders.prepare(name, data_dir)


def _with_ferplus(arrays: Arrays, votes: np.ndarray | None, labels: str, prepare_again: str) -> Arrays:
  """Replaces the labels of FER2013 with labels derived from its FER+ votes, uint8 [N, 10]."""
  from fer_jax.data.builders.fer2013 import ferplus

  if votes is None:
    raise UserError(f"labels={labels!r} requires FER+ votes, which only fer2013 has; use labels='original'")
  # Without the votes file, the dataset is prepared with zeros in this column.
  if not votes.any():
    raise UserError(
      f"labels={labels!r} requires FER+ votes, but {ferplus.FILE} was missing when the dataset was prepared: "
      f"put it next to fer2013.csv in DIR and run {prepare_again}"
    )
  if labels == "ferplus_blend":
    return dataclasses.replace(arrays, soft_label=ferplus.blended(votes, arrays.label))
  # keep: bool [N]; hard: int32 [N]; soft: float32 [N, 8]
  keep, hard, soft = ferplus.labels(votes, arrays.label)
  excluded = ", ".join(f"{np.sum(~keep[arrays.rows(split)])} of {split}" for split in SPLITS)
  note = f"FER+: {np.sum(~keep)} rows left out ({excluded}): no votes for an emotion, or more for unknown or no face"
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
  """Returns "none", "fixed" or "detector" for photographs and "face" for face images."""
  if (builder.info.metadata or {}).get("framing") == "photograph":
    return "detector" if crop == "auto" else crop
  if crop in ("fixed", "detector"):
    raise UserError(f"crop={crop!r} requires photographs, and the images of {name} are face crops; use crop='auto'")
  return "face"
