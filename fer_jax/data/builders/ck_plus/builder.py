"""CK+ as a TFDS dataset, readable without TensorFlow."""

import dataclasses
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders.ck_plus import selection, source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult

DESCRIPTION = """
CK+, the extended Cohn-Kanade dataset: 593 sequences of 123 people, from a neutral face to the apex of an expression;
327 of them, of 118 people, have a label. `subject` is the person (S005), `group` the sequence (S005_001). The metadata
field `origin` contains the source form: the official tree, CK+48 or ckextended.csv (which does not identify people).
"""

CITATION = """
@inproceedings{lucey2010extended,
  title = {The extended {Cohn-Kanade} dataset ({CK+}): A complete dataset for action unit and emotion-specified
    expression},
  author = {Lucey, Patrick and Cohn, Jeffrey F. and Kanade, Takeo and Saragih, Jason and Ambadar, Zara and
    Matthews, Iain},
  booktitle = {CVPR Workshops}, pages = {94--101}, year = {2010}, doi = {10.1109/CVPRW.2010.5543262}
}
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class CkPlusConfig(tfds.core.BuilderConfig):
  """One variant of the dataset.

  Attributes:
    selection: Frames and classes of the variant.
  """

  selection: selection.Selection


class CkPlus(PhotographBuilder):
  """CK+ (https://doi.org/10.1109/CVPRW.2010.5543262)."""

  DESCRIPTION = DESCRIPTION
  CITATION = CITATION
  HOMEPAGE = "https://www.jeffcohn.net/Resources/"
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    CkPlusConfig(
      name="default",
      description="The last three frames of every labelled sequence, seven classes with contempt.",
      selection=selection.DEFAULT,
    ),
    CkPlusConfig(
      name="neutral",
      description="The last three frames of every labelled sequence except contempt, and the first frame as neutral.",
      selection=selection.WITH_NEUTRAL,
    ),
    CkPlusConfig(
      name="last",
      description="The last frame of every labelled sequence except contempt, six classes.",
      selection=selection.LAST,
    ),
  ]

  def class_names(self) -> tuple[str, ...]:
    """Returns the class names in the order of the labels."""
    return self.builder_config.selection.class_names

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return source.read(pathlib.Path(dl_manager.manual_dir), self.builder_config.selection)
