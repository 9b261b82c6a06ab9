"""Oulu-CASIA as a TFDS dataset, readable without TensorFlow."""

import dataclasses
import pathlib

import tensorflow_datasets as tfds

from fer_jax.data.builders.oulu_casia import selection, source
from fer_jax.data.builders.photograph_builder import PhotographBuilder
from fer_jax.data.builders.photographs import ReaderResult


@dataclasses.dataclass(eq=False, kw_only=True)
class OuluCasiaConfig(tfds.core.BuilderConfig):
  """One variant of the dataset.

  Attributes:
    selection: Camera, light and frames of the variant.
  """

  selection: selection.Selection


class OuluCasia(PhotographBuilder):
  """Oulu-CASIA NIR&VIS (https://doi.org/10.1016/j.imavis.2011.07.002)."""

  DESCRIPTION = """
  Oulu-CASIA NIR&VIS: 480 sequences of 80 people, from a neutral face to the apex of one of six expressions, recorded by
  a camera for visible light (VL) and one for near infrared (NI) in three illuminations. `subject` is the person (P001),
  `group` the sequence (P001_Anger). The images are stored in grey, which is our choice: infrared has no colours, and
  papers train on grey faces. The metadata field `origin` contains the form: original frames, 320x240, or cropped faces.
  """
  CITATION = """
  @article{zhao2011facial,
    title = {Facial expression recognition from near-infrared videos},
    author = {Zhao, Guoying and Huang, Xiaohua and Taini, Matti and Li, Stan Z. and Pietik{\\"a}inen, Matti},
    journal = {Image and Vision Computing}, volume = {29}, number = {9}, pages = {607--619}, year = {2011},
    doi = {10.1016/j.imavis.2011.07.002}
  }
  """
  HOMEPAGE = "https://doi.org/10.1016/j.imavis.2011.07.002"
  BUILDER_CONFIGS = [  # noqa: RUF012 - the attribute's type is TFDS's.
    OuluCasiaConfig(
      name="default",
      description="Visible, strong light: the last three frames of every sequence, six classes.",
      selection=selection.DEFAULT,
    ),
    OuluCasiaConfig(
      name="neutral",
      description="The images of the default configuration, and the first frame of every sequence as neutral: seven "
      "classes.",
      selection=selection.WITH_NEUTRAL,
    ),
    OuluCasiaConfig(
      name="paper",
      description="Visible, strong light: the last six frames of every sequence, and all earlier frames as neutral. "
      "This selection is inferred from the number of images in table 2 of the paper on separable convolutions.",
      selection=selection.PAPER,
    ),
    *(
      OuluCasiaConfig(
        name=name,
        description=f"The last three frames of every sequence in {choice.camera}/{choice.light}, six classes.",
        selection=choice,
      )
      for name, choice in selection.OTHERS.items()
    ),
  ]

  def class_names(self) -> tuple[str, ...]:
    """Returns the class names in the order of the labels."""
    return self.builder_config.selection.class_names

  def find(self, dl_manager: tfds.download.DownloadManager) -> ReaderResult:
    """Returns the images of the dataset after decoding and checking each of them."""
    return source.read(pathlib.Path(dl_manager.manual_dir), self.builder_config.selection)
