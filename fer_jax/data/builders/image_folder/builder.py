"""A user's own images as TFDS datasets, readable without TensorFlow."""

import dataclasses
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders.image_folder import source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult
from fer_jax.runtime.files import local_path


@dataclasses.dataclass(kw_only=True)
class ImageFolderConfig(tfds.core.BuilderConfig):
  """One prepared folder.

  Attributes:
    classes: Names of the classes; () for those of the prepared dataset.
    framing: Framing of the images, "photograph" or "face".
    subjects: Regular expression for the subject of a file, see `source.read`.
  """

  classes: tuple[str, ...] = ()
  framing: str = "face"
  subjects: str = ""


class ImageFolder(PhotographBuilder):
  """Images in folders of their classes; each configuration is another folder of the user."""

  DESCRIPTION = """
  Images in folders that are named after their classes, with or without folders of splits above them. `subject` is found
  in the file's path by a regular expression, if one was given; every image is its own `group`.
  """

  @classmethod
  def configured(cls, name: str, manual_dir: str | None = None, **options: str) -> ImageFolderConfig:
    """Returns the configuration of a folder.

    Args:
      name: Name of the configuration.
      manual_dir: Folder to prepare; None for a dataset that is already prepared.
      **options: Values of `framing` and `subjects`.
    """
    classes = source.class_names(local_path(manual_dir)) if manual_dir else ()
    return ImageFolderConfig(name=name, classes=classes, **options)

  def class_names(self) -> tuple[str, ...]:
    """Returns the class names in the order of the labels."""
    if self.builder_config.classes:
      return self.builder_config.classes
    # TFDS restores the features of a prepared dataset from the folder only after they were created.
    names = pathlib.Path(self.data_dir, "label.labels.txt")
    return tuple(names.read_text(encoding="utf-8").splitlines()) if names.is_file() else ()

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return source.read(pathlib.Path(dl_manager.manual_dir), self.builder_config.framing, self.builder_config.subjects)
