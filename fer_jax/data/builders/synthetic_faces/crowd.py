"""A dataset of synthetic colour faces of any size, for benchmarks of reading large datasets."""

import itertools
import os
import pathlib
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from fer_jax.data import builders
from fer_jax.data.builders.local_info import LocalInfo
from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS, ONE_SIDED
from fer_jax.data.builders.synthetic_faces.images import render_image

SIZE = 112  # Side of an image in pixels, the usual size of aligned faces.
CLASSES = (*EXPRESSIONS, *ONE_SIDED)
_DISTINCT_IMAGES = (
  2048  # Number of images that are rendered and encoded; all other files repeat them with a different comment.
)
_HELD_OUT = 0.01  # Fraction of the examples in the validation split, and again in the test split.
_NOISE = 5.0  # Standard deviation of the noise in grey levels; it gives files the size of photographs, about 4 KB.
_QUALITY = 90  # JPEG quality.
_EXAMPLES_PER_SHARD = 25_000  # Examples per shard, about 120 MB.
_EXAMPLES_IN_MEMORY = 1000  # Examples in memory at once while writing.

_DESCRIPTION = """
Synthetic faces in colour, in eight expressions. No two files are identical, but they contain only 2,048 distinct
images: the dataset is for benchmarks of reading, not for training.
"""


class DrawnCrowd(tfds.core.GeneratorBasedBuilder):
  """Synthetic faces as JPEG files; `prepare_crowd` writes the dataset without TensorFlow.

  Args:
    examples: Total number of examples in all splits, at least 100.
    data_dir: Folder of the prepared datasets.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute's type is TFDS's.

  def __init__(self, examples: int, data_dir: pathlib.Path):
    self._examples = examples
    super().__init__(data_dir=str(data_dir / str(examples)), file_format="array_record")

  def _info(self) -> tfds.core.DatasetInfo:
    return LocalInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(names=list(CLASSES)),
          "subject": tfds.features.Text(),
          "group": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
    del dl_manager  # Nothing to download.
    return self._splits()

  def _splits(self) -> dict[str, Iterator[Any]]:
    held_out = max(1, round(_HELD_OUT * self._examples))
    files = _render_files(min(_DISTINCT_IMAGES, self._examples))
    bounds = {
      "train": range(2 * held_out, self._examples),
      "validation": range(held_out),
      "test": range(held_out, 2 * held_out),
    }
    return {split: self._generate_examples(rows, files) for split, rows in bounds.items()}

  def _generate_examples(self, rows: range, files: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in rows:
      number = row % len(files)
      yield (
        row,
        {"image": _with_comment(files[number], row), "label": number % len(CLASSES), "subject": "", "group": ""},
      )

  def write(self) -> None:
    """Writes the dataset, shard by shard.

    TFDS's `download_and_prepare` keeps a whole split in memory, and needs TensorFlow for the temporary files of splits
    of more than 1 GB.
    """
    writer = tfds.core.SequentialWriter(self.info, _EXAMPLES_PER_SHARD, file_format="array_record")
    splits = self._splits()
    writer.initialize_splits(list(splits))
    with tqdm(total=self._examples, desc="Writing", unit=" faces", disable=None) as progress:
      for split, examples in splits.items():
        while chunk := [example for _, example in itertools.islice(examples, _EXAMPLES_IN_MEMORY)]:
          writer.add_examples({split: chunk})
          progress.update(len(chunk))
    writer.close_all()


def prepare_crowd(examples: int, data_dir: pathlib.Path) -> DrawnCrowd:
  """Returns the builder of a prepared dataset with a number of examples.

  If the dataset is not prepared yet, it is written atomically.

  Args:
    examples: Total number of examples in all splits, at least 100.
    data_dir: Folder of the prepared datasets.
  """
  builder = DrawnCrowd(examples, data_dir)
  if builders.is_prepared(builder):
    return builder
  target = pathlib.Path(builder.data_dir)
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=data_dir) as staging:
    staged = DrawnCrowd(examples, pathlib.Path(staging))
    pathlib.Path(staged.data_dir).mkdir(parents=True)
    staged.write()
    os.replace(staged.data_dir, target)
  return DrawnCrowd(examples, data_dir)


def _render_files(count: int) -> list[bytes]:
  """Renders images and encodes them as JPEG; the label of image i is i modulo the number of classes."""
  generator = np.random.default_rng(0)
  files = []
  for number in range(count):
    subject, expression = divmod(number, len(CLASSES))
    grey = render_image(0, subject, CLASSES[expression], 0, SIZE).astype(np.float32)[..., None]
    # [112, 112, 1] * [3] -> [112, 112, 3]
    tint = generator.uniform(0.7, 1.1, 3)
    image = grey * tint + _NOISE * generator.standard_normal((SIZE, SIZE, 3))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    files.append(cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))[1].tobytes())
  return files


def _with_comment(jpeg: bytes, row: int) -> bytes:
  """Returns a JPEG file with the row number in a comment, which makes the file unique and its pixels unchanged."""
  # After the start-of-image marker (2 bytes): a comment segment FF FE, its length of 10 bytes and the number.
  return jpeg[:2] + b"\xff\xfe" + struct.pack(">HQ", 10, row) + jpeg[2:]
