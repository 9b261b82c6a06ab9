"""The mixture of KDEF and CK+ as TFDS datasets, readable without TensorFlow: the real one and a synthetic one."""

import dataclasses
import functools
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs
from fer_jax.data.builders.ck_plus import builder as ck_plus
from fer_jax.data.builders.kdef import builder as kdef
from fer_jax.data.builders.kdef_ck_plus import mixture
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult
from fer_jax.data.builders.synthetic_faces import layouts


@dataclasses.dataclass(eq=False, kw_only=True)
class KdefCkPlusConfig(tfds.core.BuilderConfig):
  """One variant of the dataset.

  Attributes:
    cut: Whether every class is cut to a multiple of ten images.
  """

  cut: bool


class KdefCkPlus(PhotographBuilder):
  """KDEF and the last frames of CK+ without contempt, in grey: 5,170 images in seven classes."""

  DESCRIPTION = """
  KDEF's portraits and the last frame of every labelled sequence of CK+ except contempt, in grey: the mixture of table 3
  of "Facial expression recognition based on a deep residual network" (5,170 images). Subjects and groups begin with
  "KDEF-" or "CK-".
  """
  CITATION = kdef.CITATION + ck_plus.CITATION
  HOMEPAGE = kdef.Kdef.HOMEPAGE
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    KdefCkPlusConfig(
      name="default", description="Every class cut to a multiple of ten images, as in the paper.", cut=True
    ),
    KdefCkPlusConfig(name="whole", description="All images of both datasets.", cut=False),
  ]

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return mixture.read(pathlib.Path(dl_manager.manual_dir), cut=self.builder_config.cut)


class DrawnKdefCkPlus(PhotographBuilder):
  """Synthetic faces in the official layouts of KDEF and CK+, read by the same code; requires no files."""

  DESCRIPTION = """
  Synthetic images of people who do not exist, in the official layouts of KDEF and CK+, smaller than the real images and
  read by the same code. The dataset is for trying and testing the code; accuracies on it are not informative about real
  faces.
  """

  PEOPLE = 10
  SCALE = 0.3

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Renders the images and returns the result of the dataset's reader on them."""
    del dl_manager  # Nothing to download.
    read = functools.partial(mixture.read, cut=False)
    return photographs.read_drawn(self._write, read, "the official trees of KDEF and CK+")

  def _write(self, folder: pathlib.Path) -> None:
    # Different seeds render different people, so no person is in both datasets.
    for seed, name in enumerate(("kdef", "ck_plus")):
      layouts.write_tree(name, folder / name, self.PEOPLE, seed, self.SCALE)
