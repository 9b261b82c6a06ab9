"""KDEF as a TFDS dataset, readable without TensorFlow."""

import dataclasses
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders.kdef import source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult

DESCRIPTION = """
KDEF, the Karolinska Directed Emotional Faces: 4,900 colour portraits, 562x762, of 70 people in seven expressions, from
five angles, in two sessions. `subject` is the person (F01, both sessions), `group` the pose (F01_AN_A), which five
cameras photographed simultaneously.
"""

CITATION = """
@techreport{lundqvist1998karolinska,
  title = {The {Karolinska} Directed Emotional Faces ({KDEF})},
  author = {Lundqvist, Daniel and Flykt, Anders and {\\"O}hman, Arne},
  institution = {Department of Clinical Neuroscience, Psychology section, Karolinska Institutet}, year = {1998}
}
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class KdefConfig(tfds.core.BuilderConfig):
  """One variant of the dataset.

  Attributes:
    angles: Camera angles to include, a subset of `source.ANGLES`.
  """

  angles: tuple[str, ...]


class Kdef(PhotographBuilder):
  """KDEF (https://www.kdef.se)."""

  DESCRIPTION = DESCRIPTION
  CITATION = CITATION
  HOMEPAGE = "https://www.kdef.se"
  CHANNELS = 3
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    KdefConfig(name="default", description="All five angles.", angles=source.ANGLES),
    KdefConfig(name="frontal", description="Frontal faces only.", angles=source.FRONTAL),
  ]

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return source.read(pathlib.Path(dl_manager.manual_dir), self.builder_config.angles)
