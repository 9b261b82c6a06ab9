"""From pictures to expressions: faces are found, cut as training cut its own, and classified together."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from fer_jax import classifier as classifiers
from fer_jax.classifier import LARGEST_BATCH, Classifier
from fer_jax.errors import UserError
from fer_jax.faces import pictures
from fer_jax.faces.crop import crop_face, resize
from fer_jax.faces.detection import Box, Detector, HaarDetector
from fer_jax.faces.pictures import UnreadablePicture, in_channels

# Faces smaller than this share of a picture's shorter side are not looked for.
SMALLEST_FACE = 0.1
FACES = ("auto", "detector", "whole")
VIEWS = ("single", "flip")

# uint8 [H, W] grey or [H, W, 3] RGB, or the path of a file.
Image = np.ndarray | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What stands in some pictures. Let F be the faces, in the order of the pictures, and K the classes.

  A picture without a face has no row.

  Attributes:
    picture: int32 [F], the position of each face's picture.
    box: float32 [F, 4], where it is: x and y of the upper left corner, width, height, in pixels.
    score: float32 [F], the detector's; scores of one detector can be compared with each other, not with another's.
    probability: Probability of each class, float32 [F, K].
    class_names: K names.
  """

  picture: np.ndarray
  box: np.ndarray
  score: np.ndarray
  probability: np.ndarray
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.picture)

  @property
  def label(self) -> list[str]:
    """The name of each face's most probable class."""
    return [self.class_names[k] for k in self.probability.argmax(axis=1)]


class Predictor:
  """Finds the faces in pictures and says what they express.

  Args:
    classifier: a trained network.
    detector: finds the faces, the largest first; None takes every picture whole, as one face.
    views: One of VIEWS: what is averaged, the face alone or the face and its mirror image.

  Raises:
    ValueError: `views` is none of these.
  """

  def __init__(self, classifier: Classifier, detector: Detector | None, views: str = "single"):
    if views not in VIEWS:
      raise ValueError(f"views={views!r}: expected one of {', '.join(VIEWS)}")
    self.classifier, self.detector, self.views = classifier, detector, views

  def find(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in a picture, the largest first.

    Args:
      image: uint8 [H, W] grey or [H, W, 3] RGB.
    """
    # In the channels of training, so that the detector sees what it saw there.
    return [_whole(image)] if self.detector is None else self.detector(self._in_channels(image))

  def cut(self, image: np.ndarray, box: Box) -> np.ndarray:
    """Returns a face as the network takes it, uint8 [h, w, C], cut and resized as in training.

    Args:
      image: uint8 [H, W] grey or [H, W, 3] RGB.
      box: from `find`.
    """
    height, width, _ = self.classifier.shape
    image = self._in_channels(image)
    if self.detector is not None:
      image = crop_face(image, box, max(height, width), self.classifier.margin)
    return resize(image, height, width).reshape(self.classifier.shape)

  def predict(self, images: Sequence[Image], batch_size: int = LARGEST_BATCH) -> Prediction:
    """Finds and classifies the faces in pictures.

    Args:
      images: uint8 [H, W] grey or [H, W, 3] RGB, each of a size of its own; or paths of image files.
      batch_size: how many faces go through the network at once.

    Raises:
      ValueError: an image has another shape or type.
      UserError: a file is not there, or is no image.
    """
    if isinstance(images, np.ndarray) and images.ndim < (4 if images.shape[-1] == 3 else 3):
      raise ValueError(f"one picture of {list(images.shape)}: expected several; give [image]")
    if isinstance(images, str | os.PathLike):
      raise ValueError(f"one picture, {images!r:.60}: expected several; give [image]")
    found, faces = [], []
    for number, image in enumerate(map(_opened, images)):
      boxes = self.find(image)
      found += [(number, box) for box in boxes]
      faces += [self.cut(image, box) for box in boxes]
    return Prediction(
      picture=np.array([number for number, _ in found], np.int32),
      box=np.array([box[:4] for _, box in found], np.float32).reshape(-1, 4),
      score=np.array([box.score for _, box in found], np.float32),
      probability=self.probability(stacked(faces, self.classifier.shape), batch_size),
      class_names=self.classifier.class_names,
    )

  def probability(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Returns the probability of each class, float32 [F, K], of faces from `cut`, uint8 [F, h, w, C]."""
    return self.classifier.probability(faces, batch_size, self.views)

  def _in_channels(self, image: np.ndarray) -> np.ndarray:
    return in_channels(image, self.classifier.shape[2])


def load(
  path: str | os.PathLike[str] | None = None,
  *,
  face: str = "auto",
  detector: Detector | None = None,
  views: str = "single",
) -> Predictor:
  """Loads what a finished run has learned, to be asked about pictures.

  Args:
    path: Folder of the run, or a file of a network: see `classifier.load`. None is the network that the package ships.
    face: "detector" looks for faces; "whole" takes every picture as one face, cut already; "auto" looks for them,
      unless the run was trained on photographs that were not cut.
    detector: finds the faces; None is `HaarDetector`.
    views: "single", or "flip" for the mean over each face and its mirror image.

  Raises:
    UserError: no run has finished there, it is several trainings, or its files are damaged.
    ValueError: `face` or `views` is none of these.
  """
  if face not in FACES:
    raise ValueError(f"face={face!r}: expected one of {', '.join(FACES)}")
  found = classifiers.load(path)
  if face == "auto":
    face = "whole" if found.crop == "none" else "detector"
  return Predictor(found, None if face == "whole" else detector or HaarDetector(smallest_face=SMALLEST_FACE), views)


def stacked(faces: Sequence[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
  """Returns faces, uint8 [h, w, C] each, as one array [N, h, w, C], of none as well."""
  return np.stack(faces) if faces else np.zeros((0, *shape), np.uint8)


def _opened(image: Image) -> np.ndarray:
  """Returns an image that is given as its pixels or as the path of its file."""
  if not isinstance(image, str | os.PathLike):
    return checked(image)
  try:
    return pictures.read(image)
  except UnreadablePicture as error:
    raise UserError(f"{os.fspath(image)}: {error}; expected an image file") from None


def checked(image: np.ndarray) -> np.ndarray:
  """Returns a picture; raises ValueError where it is none."""
  if not isinstance(image, np.ndarray):
    raise ValueError(f"a picture is {image!r:.60}: expected uint8 [H, W] grey or [H, W, 3] RGB, or the path of a file")
  is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
  if image.dtype != np.uint8 or not is_picture or 0 in image.shape:
    raise ValueError(f"a picture is {image.dtype} {list(image.shape)}: expected uint8 [H, W] grey or [H, W, 3] RGB")
  return image


def _whole(image: np.ndarray) -> Box:
  height, width = image.shape[:2]
  return Box(0.0, 0.0, float(width), float(height), 1.0)
