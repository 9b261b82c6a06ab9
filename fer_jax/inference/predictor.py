"""Recognises facial expressions in images: detects the faces, crops them as in training, and classifies them."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from fer_jax.data import images
from fer_jax.data.images import UnreadableImage, in_channels
from fer_jax.faces import detectors
from fer_jax.faces.crop import crop_face, resize
from fer_jax.faces.detection import Box, Detector
from fer_jax.inference import trained_model
from fer_jax.inference.trained_model import LARGEST_BATCH, TrainedModel
from fer_jax.runtime.errors import UserError

VIEWS = ("single", "flip")

# Pixels, uint8 [H, W] grey or [H, W, 3] RGB, or the path of an image file.
Image = np.ndarray | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Expressions of the F faces found in a sequence of images, in the order of the images; K is the number of classes.

  An image without a face has no row.

  Attributes:
    image_index: Index of each face's image in the sequence, int32 array of shape [F].
    box: Bounding boxes (x and y of the upper left corner, width, height) in pixels, float32 array of shape [F, 4].
    score: Detection scores, float32 array of shape [F]; comparable only between faces of the same detector.
    probability: Probability of each class, float32 array of shape [F, K].
    class_names: Names of the K classes.
  """

  image_index: np.ndarray
  box: np.ndarray
  score: np.ndarray
  probability: np.ndarray
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.image_index)

  @property
  def label(self) -> list[str]:
    """Name of the most probable class of each face."""
    return [self.class_names[k] for k in self.probability.argmax(axis=1)]


class Predictor:
  """Detects the faces in images and classifies their expressions.

  Args:
    model: Trained network.
    detector: Face detector that returns the largest face first; None treats each whole image as one face.
    views: Test-time augmentation, one of VIEWS: "single" for none, or "flip" to average over each face and its mirror
      image.

  Raises:
    ValueError: `views` is not one of VIEWS.
  """

  def __init__(self, model: TrainedModel, detector: Detector | None, views: str = "single"):
    if views not in VIEWS:
      raise ValueError(f"views={views!r}: expected one of {', '.join(VIEWS)}")
    self.model, self.detector, self.views = model, detector, views

  def find(self, image: np.ndarray) -> list[Box]:
    """Returns the boxes of the faces in an image, the largest first.

    Args:
      image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).

    Returns:
      Boxes in pixels; without a detector, one box that covers the whole image.
    """
    return [_whole(image)] if self.detector is None else self.detector(image)

  @property
  def margin(self) -> float:
    """Margin of `crop.crop_face` for the detector's boxes, so that crops show as much as the training images."""
    return (1 + self.model.margin) * (1 + getattr(self.detector, "margin", 0.0)) - 1

  def cut(self, image: np.ndarray, box: Box) -> np.ndarray:
    """Returns the network's input for one face, cropped and resized as in training.

    Args:
      image: Image, uint8 array of shape [H, W] (grey) or [H, W, 3] (RGB).
      box: Box of the face, from `find`.

    Returns:
      Face, uint8 array of shape [h, w, C] as in the model's `shape`.
    """
    height, width, _ = self.model.shape
    image = self._in_channels(image)
    if self.detector is not None:
      image = crop_face(image, box, max(height, width), self.margin)
    return resize(image, height, width).reshape(self.model.shape)

  def predict(self, images: Sequence[Image], batch_size: int = LARGEST_BATCH) -> Prediction:
    """Detects and classifies the faces in images.

    Args:
      images: Sequence of images, which may differ in size: uint8 arrays of shape [H, W] (grey) or [H, W, 3] (RGB), or
        paths of image files.
      batch_size: Maximum number of faces per call of the network.

    Returns:
      Predictions for all faces in all images.

    Raises:
      ValueError: An image has another shape or dtype, or `images` is a single image.
      UserError: A file does not exist or is not an image.
    """
    # A stack of equally large images, [N, H, W] or [N, H, W, 3], is a valid sequence; a single image is a mistake.
    if isinstance(images, np.ndarray) and images.ndim < (4 if images.shape[-1] == 3 else 3):
      raise ValueError(f"images is one image of shape {list(images.shape)}: expected a sequence; pass [image]")
    if isinstance(images, str | os.PathLike):
      raise ValueError(f"images is one path, {images!r:.60}: expected a sequence; pass [image]")
    found, faces = [], []
    for index, image in enumerate(map(_read_pixels, images)):
      boxes = self.find(image)
      found += [(index, box) for box in boxes]
      faces += [self.cut(image, box) for box in boxes]
    return Prediction(
      image_index=np.array([index for index, _ in found], np.int32),
      box=np.array([box[:4] for _, box in found], np.float32).reshape(-1, 4),
      score=np.array([box.score for _, box in found], np.float32),
      probability=self.probability(stack_faces(faces, self.model.shape), batch_size),
      class_names=self.model.class_names,
    )

  def probability(self, faces: np.ndarray, batch_size: int = LARGEST_BATCH) -> np.ndarray:
    """Computes the probability of each class.

    Args:
      faces: Faces from `cut`, uint8 array of shape [F, h, w, C].
      batch_size: Maximum number of faces per call of the network.

    Returns:
      Probabilities, float32 array of shape [F, K].
    """
    return self.model.probability(faces, batch_size, self.views)

  def _in_channels(self, image: np.ndarray) -> np.ndarray:
    return in_channels(image, self.model.shape[2])


def load_predictor(
  path: str | os.PathLike[str] | None = None,
  *,
  detector: str | Detector = "auto",
  yunet: str | os.PathLike[str] | None = None,
  smallest_face: float = detectors.SMALLEST_FACE,
  views: str = "single",
) -> Predictor:
  """Loads the trained network of a finished run together with a face detector.

  Args:
    path: Folder of the run, or file of a network; see `trained_model.load`. None loads the network shipped with the
      package.
    detector: Face detector, or its name: "yunet", "mtcnn", "cascade", or "whole", which treats each image as one
      cropped face. "auto" is "whole" if the network was trained on uncropped photographs, else "yunet" if its model was
      downloaded or is given, else "cascade".
    yunet: Path of YuNet's model; None for the downloaded one.
    smallest_face: Side of the smallest face for a named detector, as a share of the image's shorter side.
    views: Test-time augmentation: "single" for none, or "flip" for the mean over each face and its mirror image.

  Returns:
    Predictor for images.

  Raises:
    UserError: No run has finished in the folder, it has several replicas, or its files are damaged; or the detector's
      model or package is missing.
    ValueError: The name of the detector is unknown, or `views` is not one of VIEWS.
  """
  found: Detector | None
  if isinstance(detector, str):
    found = detectors.detector(detector, yunet=yunet, smallest_face=smallest_face)
  else:
    found = detector
  model = trained_model.load(path)
  return Predictor(model, None if model.crop == "none" and detector == "auto" and yunet is None else found, views)


def stack_faces(faces: Sequence[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
  """Returns faces, uint8 [h, w, C] each, as one array [N, h, w, C]; N may be 0."""
  return np.stack(faces) if faces else np.zeros((0, *shape), np.uint8)


def _read_pixels(image: Image) -> np.ndarray:
  """Returns the pixels of an image that is given as an array or as the path of its file."""
  if not isinstance(image, str | os.PathLike):
    return check_image(image)
  try:
    return images.read_image(image)
  except UnreadableImage as error:
    raise UserError(f"{os.fspath(image)}: {error}; expected an image file") from None


def check_image(image: np.ndarray) -> np.ndarray:
  """Returns an image unchanged; raises ValueError unless it is uint8 [H, W] or [H, W, 3] and not empty."""
  if not isinstance(image, np.ndarray):
    raise ValueError(f"an image is {image!r:.60}: expected uint8 [H, W] grey or [H, W, 3] RGB, or the path of a file")
  has_image_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
  if image.dtype != np.uint8 or not has_image_shape or 0 in image.shape:
    raise ValueError(f"an image is {image.dtype} {list(image.shape)}: expected uint8 [H, W] grey or [H, W, 3] RGB")
  return image


def _whole(image: np.ndarray) -> Box:
  height, width = image.shape[:2]
  return Box(0.0, 0.0, float(width), float(height), 1.0)
