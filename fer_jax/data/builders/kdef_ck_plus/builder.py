"""The mixture of KDEF and CK+ as TFDS datasets, readable without TensorFlow: the real one, and a drawn one."""

import dataclasses
import functools
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs, required_files
from fer_jax.data.builders.ck_plus import builder as ck_plus
from fer_jax.data.builders.kdef import builder as kdef
from fer_jax.data.builders.kdef_ck_plus import mixture
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import Found
from fer_jax.data.builders.synthetic_faces import layouts


@dataclasses.dataclass(eq=False, kw_only=True)
class KdefCkPlusConfig(tfds.core.BuilderConfig):
  """Whether every class is cut to a multiple of ten."""

  cut: bool


class KdefCkPlus(PhotographBuilder):
  """KDEF and the last frames of CK+ without contempt, in grey: 5,170 pictures in seven classes."""

  DESCRIPTION = """
  KDEF's portraits and the last frame of every labelled sequence of CK+ but contempt's, in grey: the mixture of table 3
  of "Facial expression recognition based on a deep residual network" (5,170 pictures). Subjects and groups begin with
  "KDEF-" or "CK-".
  """
  CITATION = kdef.CITATION + ck_plus.CITATION
  HOMEPAGE = kdef.Kdef.HOMEPAGE
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Give as manual_dir the folder that holds {required_files('kdef_ck_plus')}."
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    KdefCkPlusConfig(name="default", description="Every class a multiple of ten, as in the paper.", cut=True),
    KdefCkPlusConfig(name="whole", description="All pictures of both datasets.", cut=False),
  ]

  def find(self, dl_manager: tfds.download.DownloadManager) -> Found:
    """Returns the pictures, every one of them checked."""
    return mixture.read(pathlib.Path(dl_manager.manual_dir), cut=self.builder_config.cut)


class DrawnKdefCkPlus(PhotographBuilder):
  """Drawn faces in the official trees of KDEF and CK+, read as the real ones are; needs no files."""

  DESCRIPTION = """
  Drawn pictures of people who do not exist, written in the official trees of KDEF and CK+, smaller than the real ones,
  and read by the code that reads these. They are there to try and test the code: an accuracy on them says nothing about
  real faces.
  """

  PEOPLE = 10
  SCALE = 0.3

  def find(self, dl_manager: tfds.download.DownloadManager) -> Found:
    """Draws the pictures, and returns them."""
    del dl_manager  # Nothing to download.
    read = functools.partial(mixture.read, cut=False)
    return photographs.drawn(self._write, read, "the official trees of KDEF and CK+")

  def _write(self, folder: pathlib.Path) -> None:
    # Other seeds draw other people: nobody is in both.
    for seed, name in enumerate(("kdef", "ck_plus")):
      layouts.write_tree(name, folder / name, self.PEOPLE, seed, self.SCALE)
