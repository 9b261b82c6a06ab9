"""What the TFDS datasets made of people's photographs have in common."""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs
from fer_jax.data.builders.local_info import LocalInfo
from fer_jax.data.builders.photographs import Found, Photograph
from fer_jax.errors import UserError

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# Sides in pixels where nobody asks for another: the first paper's crops, and those of the sets of faces.
_IMAGE_SIZE = {"photograph": 128, "face": 48}
# Of a file of the prepared dataset; so many are in memory at once while it is written.
_PICTURES_PER_SHARD = 512

_Examples = Iterator[tuple[int, dict[str, Any]]]


# Not GeneratorBasedBuilder: that holds a split in memory, and beyond 1 GB needs TensorFlow.
class PhotographBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """A dataset of pictures of people: one split `train`, the pictures in their source's order.

  A picture keeps the bytes of its file where these decode to CHANNELS; the others are stored as PNG, without loss.
  Prepare it with `file_format="array_record"`; then neither writing nor reading needs TensorFlow.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute's type is TFDS's.
  DESCRIPTION = ""
  CITATION = ""
  HOMEPAGE = ""
  CHANNELS = 1

  @abc.abstractmethod
  def find(self, dl_manager: tfds.download.DownloadManager) -> Found:
    """Returns the pictures, every one of them checked."""

  def class_names(self) -> tuple[str, ...]:
    """Returns the classes in the order of the labels."""
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
    """Reads and checks everything before the first record is written."""
    try:
      found = self.find(dl_manager)
    except OSError as error:
      raise UserError(f"{error.filename or 'the dataset'} cannot be read: {error.strerror or error}") from error
    self.info.metadata.update(
      origin=found.origin,
      framing=found.framing,
      image_size=_IMAGE_SIZE[found.framing],
      fixed_squares={beginning: list(square) for beginning, square in found.fixed_squares.items()},
      comparison=list(found.comparison),
      warnings=[*found.warnings, *photographs.reject_lines(found.rejects)],
    )
    pictures = list(enumerate(found.photographs))
    shards = [pictures[start : start + _PICTURES_PER_SHARD] for start in range(0, len(pictures), _PICTURES_PER_SHARD)]
    return {"train": [functools.partial(self._examples, shard) for shard in shards]}

  def _examples(self, shard: Sequence[tuple[int, Photograph]]) -> _Examples:
    for index, photograph in shard:
      # Bytes, not an array: TFDS encodes arrays with TensorFlow.
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
