"""Synthetic faces as a TFDS dataset, rendered in seconds and readable without TensorFlow."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.arrays import SPLITS
from fer_jax.data.builders.local_info import LocalInfo
from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS
from fer_jax.data.builders.synthetic_faces.images import render_image

_DESCRIPTION = """
Synthetic grey faces of people who do not exist, in seven expressions composed of facial action units. The dataset is
for trying and testing the code; accuracies on it are not informative about real faces. No person is in two splits.
"""

_CITATION = """
@techreport{friesen1983emfacs,
  title = {EMFACS-7: Emotional Facial Action Coding System},
  author = {Friesen, Wallace V. and Ekman, Paul},
  institution = {University of California at San Francisco}, year = {1983}
}
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticFacesConfig(tfds.core.BuilderConfig):
  """One variant of the dataset.

  Attributes:
    size: Side of the images in pixels.
    subjects: Number of people in train, validation and test.
    repetitions: Number of images of each person and expression.
    seed: Random seed of the dataset; with the same seed, a larger `size` gives the same images at a higher resolution.
  """

  size: int
  subjects: tuple[int, int, int] = (200, 35, 35)
  repetitions: int = 3
  seed: int = 0


class SyntheticFaces(tfds.core.GeneratorBasedBuilder):
  """Synthetic faces, for trying and testing the code without a download.

  With `file_format="array_record"` neither writing nor reading the dataset needs TensorFlow.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute's type is TFDS's.
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    SyntheticFacesConfig(name="48px", description="48 x 48, the size of FER2013.", size=48),
    SyntheticFacesConfig(name="128px", description="The images of 48px at 128 x 128.", size=128),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    return LocalInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(names=list(EXPRESSIONS)),
          "subject": tfds.features.Text(),
          "group": tfds.features.Text(),
          "index": np.int64,
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
    del dl_manager  # Nothing to download.
    # Consecutive ranges of subject numbers, so no person is in two splits.
    boundaries = list(itertools.accumulate(self.builder_config.subjects, initial=0))
    return {
      split: self._generate_examples(range(*bounds))
      for split, bounds in zip(SPLITS, itertools.pairwise(boundaries), strict=True)
    }

  def _generate_examples(self, subjects: range) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    examples = itertools.product(subjects, enumerate(EXPRESSIONS), range(config.repetitions))
    # Index of the split's first image in the whole dataset.
    first = subjects.start * len(EXPRESSIONS) * config.repetitions
    for index, (subject, (label, expression), repetition) in enumerate(examples, start=first):
      image = render_image(config.seed, subject, expression, repetition, config.size)
      # Encoded bytes instead of an array, because TFDS encodes arrays with TensorFlow.
      yield (
        index,
        {
          "image": cv2.imencode(".png", image)[1].tobytes(),
          "label": label,
          "subject": f"S{subject:04d}",
          "group": f"S{subject:04d}_{expression}_{repetition}",
          "index": index,
        },
      )
