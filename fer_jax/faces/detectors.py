"""The face detectors by name."""

import os

from fer_jax.faces import cascades
from fer_jax.faces.detection import Detector
from fer_jax.faces.mtcnn import MtcnnDetector
from fer_jax.faces.yunet import YuNetDetector
from fer_jax.runtime import downloads
from fer_jax.runtime.errors import UserError

SMALLEST_FACE = 0.1
"""Side of the smallest detected face, as a share of the image's shorter side; YuNet has no such limit."""

NAMES = ("auto", "yunet", "mtcnn", "cascade", "whole")


def detector(
  name: str = "auto",
  *,
  yunet: str | os.PathLike[str] | None = None,
  smallest_face: float = SMALLEST_FACE,
) -> Detector | None:
  """Returns a face detector.

  Args:
    name: One of NAMES: "yunet"; "mtcnn"; "cascade", OpenCV's Haar cascades; "whole", which treats each image as one
      face; or "auto", YuNet if its model was downloaded or is given, else the cascades.
    yunet: Path of YuNet's model; None for the one that `fer_jax.apps.fetch` downloaded.
    smallest_face: Side of the smallest face that "mtcnn" and "cascade" detect, as a share of the image's shorter side.

  Returns:
    The detector; None for "whole".

  Raises:
    UserError: The detector's model or package is missing.
    ValueError: The name is unknown.
  """
  if name not in NAMES:
    raise ValueError(f"detector={name!r}: expected one of {', '.join(NAMES)}, or a function from an image to boxes")
  if name == "whole":
    return None
  if name == "mtcnn":
    return MtcnnDetector(smallest_face)
  if name == "cascade" or (name == "auto" and yunet is None and not downloads.is_fetched("yunet")):
    return cascades.photograph_detector(smallest_face)
  if yunet is None and not downloads.is_fetched("yunet"):
    raise UserError("the detector yunet needs its model: python -m fer_jax.apps.fetch yunet downloads it (0.2 MB)")
  return YuNetDetector(downloads.path_of("yunet") if yunet is None else yunet)
