"""Common base class of the TFDS datasets that are made of photographs of people."""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs
from fer_jax.data.builders.local_info import LocalInfo
from fer_jax.data.builders.photographs import Photograph, ReaderResult
from fer_jax.runtime.errors import UserError

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# Default side of the image in pixels by framing: the first paper's crops, and the usual size of cropped-face datasets.
_IMAGE_SIZE = {"photograph": 128, "face": 48}
# Images in one file of the prepared dataset. That many are in memory at once while it is written.
_IMAGES_PER_SHARD = 512

_Examples = Iterator[tuple[int, dict[str, Any]]]


# Not GeneratorBasedBuilder, which keeps a whole split in memory and needs TensorFlow for more than 1 GB.
class PhotographBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """A dataset of images of people, in the order of the source; by default with a single split `train`.

  An image whose file decodes to CHANNELS channels keeps the bytes of its file; the others are stored as lossless PNG.
  With `file_format="array_record"` neither writing nor reading the dataset needs TensorFlow.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute's type is TFDS's.
  DESCRIPTION = ""
  CITATION = ""
  HOMEPAGE = ""
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Pass as manual_dir the folder that fer_jax.apps.prepare --help describes."
  CHANNELS = 1

  @abc.abstractmethod
  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""

  def class_names(self) -> tuple[str, ...]:
    """Returns the class names in the order of the labels."""
    return EXPRESSIONS

  def _info(self) -> tfds.core.DatasetInfo:
    return LocalInfo(
      builder=self,
      description=self.DESCRIPTION,
      citation=self.CITATION,
      homepage=self.HOMEPAGE,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(None, None, self.CHANNELS)),
          "label": tfds.features.ClassLabel(names=self.class_names()),
          "subject": tfds.features.Text(),
          "group": tfds.features.Text(),
          "index": np.int64,
          "file": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], _Examples]]]:
    """Returns one example iterator per shard; all images are read and checked before the first record is written."""
    try:
      found = self.find(dl_manager)
    except OSError as error:
      raise UserError(f"{error.filename or 'the dataset'} cannot be read: {error.strerror or error}") from error
    self.info.metadata.update(
      origin=found.origin,
      framing=found.framing,
      image_size=_IMAGE_SIZE[found.framing],
      fixed_squares={subject_prefix: list(square) for subject_prefix, square in found.fixed_squares.items()},
      comparison=list(found.comparison),
      warnings=[*found.warnings, *photographs.reject_lines(found.rejects)],
    )
    iterators: dict[str, list[Callable[[], _Examples]]] = {}
    for split in dict.fromkeys(photograph.split for photograph in found.photographs):
      images = [(index, each) for index, each in enumerate(found.photographs) if each.split == split]
      shards = [images[start : start + _IMAGES_PER_SHARD] for start in range(0, len(images), _IMAGES_PER_SHARD)]
      iterators[split] = [functools.partial(self._examples, shard) for shard in shards]
    return iterators

  def _examples(self, shard: Sequence[tuple[int, Photograph]]) -> _Examples:
    for index, photograph in shard:
      # Encoded bytes instead of an array, because TFDS encodes arrays with TensorFlow.
      yield (
        index,
        {
          "image": photographs.encoded(photograph, self.CHANNELS),
          "label": photograph.label,
          "subject": photograph.subject,
          "group": photograph.group,
          "index": index,
          "file": photograph.file,
        },
      )
