"""Turns photographs of people into pictures of their faces."""

from collections.abc import Mapping, Sequence

import numpy as np

from fer_jax.faces.crop import crop_face, crop_square
from fer_jax.faces.detection import Detector

# As a share of a photograph's shorter side: people look into a dataset's camera from near by, and what is smaller is no
# face.
SMALLEST_FACE = 0.3
_NAMED_AT_MOST = 5


class Framing:
  """Cuts the face out of each of a dataset's photographs, and remembers where none was found.

  Args:
    size: side of the pictures in pixels.
    fixed_squares: (x, y, side) by what the subject's name begins with: the square's centre as shares of a
      photograph's width and height, and its side as a share of the shorter of these.
    detector: finds the face; None takes the fixed square of every photograph.
  """

  def __init__(self, size: int, fixed_squares: Mapping[str, Sequence[float]], detector: Detector | None):
    self._size, self._fixed_squares, self._detector = size, fixed_squares, detector
    self._seen, self._faceless = 0, list[str]()

  def __call__(self, image: np.ndarray, subject: str, file: str) -> np.ndarray:
    """Returns the face in a photograph.

    Where the detector finds several, the largest is taken; where none, the fixed square.

    Args:
      image: uint8 [H, W] or [H, W, C].
      subject: who is in it.
      file: its name, for `notes`.

    Returns:
      uint8 [size, size] or [size, size, C].
    """
    self._seen += 1
    if self._detector is not None:
      boxes = self._detector(image)
      if boxes:
        return crop_face(image, boxes[0], self._size)
      self._faceless.append(file)
    x, y, side = next(square for beginning, square in self._fixed_squares.items() if subject.startswith(beginning))
    height, width = image.shape[:2]
    return crop_square(image, x * width, y * height, side * min(height, width), self._size)

  def notes(self) -> tuple[str, ...]:
    """Says in how many photographs no face was found, and names the first of them."""
    if not self._faceless:
      return ()
    more = len(self._faceless) - _NAMED_AT_MOST
    names = ", ".join(self._faceless[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    return (f"no face was found in {len(self._faceless)} of {self._seen} images: cropped at the fixed place ({names})",)
