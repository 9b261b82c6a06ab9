"""FER2013 as a TFDS dataset, readable without TensorFlow."""

import hashlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.builders.fer2013 import csv_form, ferplus, source
from fer_jax.data.builders.fer2013.raw import CLASS_NAMES, SIZE, Raw
from fer_jax.data.builders.local_info import LocalInfo

_DESCRIPTION = """
FER2013: 35,887 grey 48x48 images of faces, found by web searches for emotion words, in seven classes.
The source's Training, PublicTest and PrivateTest are the splits train, validation and test. `votes` contains
the FER+ votes of ten annotators (columns: {columns}), or zeros if FER+ was not found.
`index` is the row in the source, starting at 0. Images with identical pixels have the same `group`.
""".format(columns=", ".join(ferplus.COLUMNS))

_CITATION = """
@article{goodfellow2015challenges,
  title = {Challenges in representation learning: A report on three machine learning contests},
  author = {Goodfellow, Ian J. and Erhan, Dumitru and Carrier, Pierre Luc and Courville, Aaron and others},
  journal = {Neural Networks}, volume = {64}, pages = {59--63}, year = {2015},
  url = {https://arxiv.org/abs/1307.0414}
}
@inproceedings{barsoum2016training,
  title = {Training deep networks for facial expression recognition with crowd-sourced label distribution},
  author = {Barsoum, Emad and Zhang, Cha and Canton Ferrer, Cristian and Zhang, Zhengyou},
  booktitle = {ICMI}, year = {2016}, url = {https://arxiv.org/abs/1608.01041}
}
"""


class Fer2013(tfds.core.GeneratorBasedBuilder):
  """FER2013 (https://arxiv.org/abs/1307.0414), with FER+ votes if they are found.

  With `file_format="array_record"` neither writing nor reading the dataset needs TensorFlow.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute's type is TFDS's.
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
  Copy one of the following into a folder and pass that folder as manual_dir:
  - fer2013.csv (or fer2013/fer2013.csv), from the Kaggle competition
    "Challenges in Representation Learning: Facial Expression Recognition Challenge";
  - icml_face_data.csv, from the same competition;
  - the folders train/ and test/ of Kaggle's image form (no validation split).
  For FER+ labels, copy {ferplus.FILE} (https://github.com/microsoft/FERPlus) next to the CSV file.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return LocalInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      homepage="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(names=CLASS_NAMES),
          "subject": tfds.features.Text(),
          "group": tfds.features.Text(),
          "index": np.int64,
          "votes": tfds.features.Tensor(shape=(len(ferplus.COLUMNS),), dtype=np.uint8),
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
    """Returns one example iterator per split; all rows are read and checked before the first record is written."""
    raw = source.read(dl_manager.manual_dir)
    self.info.metadata.update(origin=raw.origin, warnings=list(raw.warnings))
    # The folder form has no validation split.
    present = [split for split in csv_form.SPLIT_BY_USAGE.values() if (raw.split == split).any()]
    return {split: self._generate_examples(raw, split) for split in present}

  def _generate_examples(self, raw: Raw, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    no_votes = np.zeros(len(ferplus.COLUMNS), np.uint8)
    for row in np.flatnonzero(raw.split == split).tolist():
      image = raw.image[row]
      # Encoded bytes instead of an array, because TFDS encodes arrays with TensorFlow.
      yield (
        row,
        {
          "image": cv2.imencode(".png", image)[1].tobytes(),
          "label": int(raw.label[row]),
          "subject": "",
          # FER2013 has no sequences or subjects; only identical images are related.
          "group": hashlib.sha256(image.tobytes()).hexdigest()[:16],
          "index": row,
          "votes": no_votes if raw.votes is None else raw.votes[row],
        },
      )
