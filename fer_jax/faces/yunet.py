"""Face detection with YuNet, a small network that OpenCV runs."""

import os
import pathlib
import threading

import cv2
import numpy as np

from fer_jax.faces.crop import resize
from fer_jax.faces.detection import Box, largest_first
from fer_jax.runtime.errors import UserError

_MODEL = "face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo"
# Faces of 10 to 300 pixels are found. Larger images are therefore reduced, and those with a smaller shorter side are
# enlarged: of 48x48 crops of faces (FER2013), 76 % are found at 48 pixels and 98 % at 160.
_MAX_SIDE, _MIN_SIDE = 640, 160
_MIN_INPUT = 64  # side to which narrow images are padded


class YuNetDetector:
  """Detects faces with YuNet, which also finds rotated faces; `fer_jax.apps.fetch` downloads its model.

  Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", MIR 2023, https://doi.org/10.1007/s11633-023-1423-y.

  Args:
    model: Path of the model file, face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo.
    threshold: Minimum score, 0 to 1; faces with a lower score are excluded.

  Raises:
    UserError: If the file does not exist or is not a model.
  """

  margin = 0.0  # measured, see docs/faces.md

  def __init__(self, model: str | os.PathLike[str], threshold: float = 0.6):
    self._path, self._threshold = pathlib.Path(os.path.expanduser(model)), threshold
    if not self._path.is_file():
      raise UserError(f"YuNet model {self._path} does not exist; expected {_MODEL}")
    # One network for each thread, because the size of its input is part of its state.
    self._networks = threading.local()
    try:
      self._network()
    except cv2.error:
      raise UserError(
        f"{self._path} is not a model that OpenCV can read; expected {_MODEL}: download it again"
      ) from None

  def __call__(self, image: np.ndarray) -> list[Box]:
    """Returns the faces in an image, largest first.

    Args:
      image: Image, uint8 [H, W] grey or [H, W, 3] RGB; in colour, more faces are found.
    """
    height, width = image.shape[:2]
    scale = min(_MAX_SIDE / max(height, width), max(1.0, _MIN_SIDE / min(height, width)))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    colour = cv2.cvtColor(resize(image, *size), cv2.COLOR_RGB2BGR if image.ndim == 3 else cv2.COLOR_GRAY2BGR)
    # For smaller inputs, some versions of OpenCV return boxes that are not finite.
    below, right = (max(0, _MIN_INPUT - side) for side in size)
    colour = cv2.copyMakeBorder(colour, 0, below, 0, right, cv2.BORDER_REPLICATE)
    network = self._network()
    network.setInputSize((colour.shape[1], colour.shape[0]))
    _, faces = network.detect(colour)
    if faces is None:
      return []
    # float32 [faces, 15]: x, y, width, height, five landmarks (x, y), score
    found = faces[:, [0, 1, 2, 3, 14]].astype(float)
    found[:, [0, 2]] *= width / size[1]
    found[:, [1, 3]] *= height / size[0]
    return largest_first(Box(*row) for row in found.tolist() if _is_plausible(row, height, width))

  def _network(self) -> cv2.FaceDetectorYN:
    if not hasattr(self._networks, "network"):
      self._networks.network = cv2.FaceDetectorYN.create(str(self._path), "", (320, 320), self._threshold)
    return self._networks.network


def _is_plausible(row: list[float], height: int, width: int) -> bool:
  """Returns whether a box is finite and has its centre in the image, given its (x, y, width, height, score)."""
  x, y, box_width, box_height, _ = row
  if not np.isfinite(row).all() or min(box_width, box_height) <= 0:
    return False
  return 0 <= x + box_width / 2 <= width and 0 <= y + box_height / 2 <= height and box_height <= 2 * max(height, width)
