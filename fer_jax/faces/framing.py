"""Crops photographs of people to face images."""

from collections.abc import Mapping, Sequence

import numpy as np

from fer_jax.faces.crop import crop_face, crop_square
from fer_jax.faces.detection import Detector

# Side of the smallest face as a share of a photograph's shorter side. People are close to the camera in these datasets,
# so smaller detections are not faces.
SMALLEST_FACE = 0.3
_MAX_NAMED = 5  # number of files without a face that are named in the note


class Framing:
  """Crops each photograph of a dataset to the face, and records the photographs in which no face was found.

  Args:
    size: Side of the cropped images in pixels.
    fixed_squares: Fixed square (x, y, side) by prefix of the subject's name: centre relative to the width and height of
      the photograph, and side relative to the shorter of the two.
    detector: Face detector; None crops every photograph to its fixed square.
  """

  def __init__(self, size: int, fixed_squares: Mapping[str, Sequence[float]], detector: Detector | None):
    self._size, self._fixed_squares, self._detector = size, fixed_squares, detector
    self._count, self._faceless = 0, list[str]()

  def __call__(self, image: np.ndarray, subject: str, file: str) -> np.ndarray:
    """Returns the face in a photograph: the largest one found by the detector, or the fixed square if it finds none.

    Args:
      image: Photograph, uint8 [H, W] or [H, W, C].
      subject: Name of the subject, which selects the fixed square.
      file: File name, for `notes`.

    Returns:
      Face, uint8 [size, size] or [size, size, C].
    """
    self._count += 1
    if self._detector is not None:
      boxes = self._detector(image)
      if boxes:
        return crop_face(image, boxes[0], self._size)
      self._faceless.append(file)
    # The first prefix that matches, in the order of the mapping.
    x, y, side = next(square for prefix, square in self._fixed_squares.items() if subject.startswith(prefix))
    height, width = image.shape[:2]
    return crop_square(image, x * width, y * height, side * min(height, width), self._size)

  def notes(self) -> tuple[str, ...]:
    """Returns a note with the number of detected faces and the first files without one; () without a detector."""
    if self._detector is None:
      return ()
    missing = len(self._faceless)
    if not missing:
      return (f"a face was found in each of {self._count} images",)
    names = ", ".join(self._faceless[:_MAX_NAMED]) + (f" and {missing - _MAX_NAMED} more" * (missing > _MAX_NAMED))
    return (f"no face was found in {missing} of {self._count} images: fixed square used instead ({names})",)
