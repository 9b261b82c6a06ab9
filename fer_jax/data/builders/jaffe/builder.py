"""JAFFE as TFDS datasets, readable without TensorFlow: the real one, and a drawn one."""

import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs, required_files
from fer_jax.data.builders.jaffe import source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import Found
from fer_jax.data.builders.synthetic_faces import layouts


class Jaffe(PhotographBuilder):
  """JAFFE (https://doi.org/10.1109/AFGR.1998.670949)."""

  DESCRIPTION = """
  JAFFE, the Japanese Female Facial Expression dataset: 213 grey portraits, 256x256, of ten women in seven expressions,
  two to four pictures of each. `subject` is the person (KA), `group` the person's expression (KA_AN). The files, which
  are TIFF, are stored as PNG, without loss.
  """
  CITATION = """
  @inproceedings{lyons1998coding,
    title = {Coding Facial Expressions with {Gabor} Wavelets},
    author = {Lyons, Michael J. and Akamatsu, Shigeru and Kamachi, Miyuki and Gyoba, Jiro},
    booktitle = {Automatic Face and Gesture Recognition}, pages = {200--205}, year = {1998},
    doi = {10.1109/AFGR.1998.670949}
  }
  """
  HOMEPAGE = "https://zenodo.org/records/3451524"
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Give as manual_dir the folder that holds {required_files('jaffe')}."

  def find(self, dl_manager: tfds.download.DownloadManager) -> Found:
    """Returns the pictures, every one of them checked."""
    return source.read(pathlib.Path(dl_manager.manual_dir))


class DrawnJaffe(PhotographBuilder):
  """Drawn faces in JAFFE's official tree, read as the real ones are; needs no files."""

  DESCRIPTION = """
  Drawn pictures of ten people who do not exist, under the names of JAFFE's files, smaller than the real ones, and read
  by the code that reads these: three pictures of every person and expression, 210 in all. They are there to try and
  test the code: an accuracy on them says nothing about real faces.
  """

  PEOPLE = 10
  SCALE = 0.375
  SEED = 2  # not those of the other drawn datasets

  def find(self, dl_manager: tfds.download.DownloadManager) -> Found:
    """Draws the pictures, and returns them."""
    del dl_manager  # Nothing to download.
    return photographs.drawn(self._write, source.read, "the official tree of JAFFE")

  def _write(self, folder: pathlib.Path) -> None:
    layouts.write_tree("jaffe", folder, self.PEOPLE, self.SEED, self.SCALE)
