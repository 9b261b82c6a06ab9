"""JAFFE as TFDS datasets, readable without TensorFlow: the real dataset and a synthetic one."""

import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders import photographs
from fer_jax.data.builders.jaffe import source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult
from fer_jax.data.builders.synthetic_faces import layouts


class Jaffe(PhotographBuilder):
  """JAFFE (https://doi.org/10.1109/AFGR.1998.670949)."""

  DESCRIPTION = """
  JAFFE, the Japanese Female Facial Expression dataset: 213 grey portraits, 256x256, of ten women in seven expressions,
  two to four images of each. `subject` is the person (KA), `group` the person and expression (KA_AN). The TIFF files
  are stored as lossless PNG.
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

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return source.read(pathlib.Path(dl_manager.manual_dir))


class DrawnJaffe(PhotographBuilder):
  """Synthetic faces in JAFFE's official layout, read by the same code as JAFFE; requires no files."""

  DESCRIPTION = """
  Synthetic images of ten people who do not exist, with the file names of JAFFE, smaller than the real images and read
  by the same code: three images of every person and expression, 210 in total. The dataset is for trying and testing the
  code; accuracies on it are not informative about real faces.
  """

  PEOPLE = 10
  SCALE = 0.375
  SEED = 2  # Differs from the seeds of the other synthetic datasets, so the people differ too.

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Renders the images and returns the result of the dataset's reader on them."""
    del dl_manager  # Nothing to download.
    return photographs.read_drawn(self._write, source.read, "the official tree of JAFFE")

  def _write(self, folder: pathlib.Path) -> None:
    layouts.write_tree("jaffe", folder, self.PEOPLE, self.SEED, self.SCALE)
