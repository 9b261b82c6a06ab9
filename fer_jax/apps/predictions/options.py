"""Command-line options shared by the programs that load a network and detect faces."""

import argparse
import os
from pathlib import Path

from fer_jax.faces.detection import Detector, HaarDetector, YuNetDetector
from fer_jax.inference.predictor import FACES, SMALLEST_FACE, VIEWS
from fer_jax.runtime.errors import UserError


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
  """Adds --checkpoint, the network to use, to a parser."""
  parser.add_argument(
    "--checkpoint",
    type=lambda text: Path(os.path.expanduser(text)),  # shells do not expand the ~ in --checkpoint=~/run
    metavar="MODEL",
    help="folder of a finished run, or .safetensors file of apps.export (default: the network shipped with fer_jax)",
  )


def add_views_option(parser: argparse.ArgumentParser) -> None:
  """Adds --views, test-time augmentation, to a parser."""
  parser.add_argument(
    "--views", choices=VIEWS, default="single", help="flip: average over each face and its mirror image"
  )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
  """Adds --face, --yunet and --smallest_face to a parser."""
  parser.add_argument("--face", choices=FACES, default="auto", help="whole: each image is one cropped face")
  add_yunet_option(parser)
  parser.add_argument(
    "--smallest_face",
    type=float,
    default=SMALLEST_FACE,
    metavar="SHARE",
    help="minimum face size as a fraction of the image's shorter side; ignored with --yunet (default: %(default)s)",
  )


def add_yunet_option(parser: argparse.ArgumentParser) -> None:
  """Adds --yunet, the path of YuNet's model file, to a parser."""
  parser.add_argument(
    "--yunet", type=Path, metavar="MODEL", help="detect faces with this face_detection_yunet_2023mar.onnx"
  )


def detector_of(options: argparse.Namespace) -> Detector:
  """Returns the face detector for parsed options.

  Args:
    options: Namespace with `yunet` and `smallest_face`.

  Raises:
    UserError: `smallest_face` is out of range, or YuNet's model file cannot be loaded.
  """
  if not 0 < options.smallest_face <= 1:
    raise UserError(f"--smallest_face={options.smallest_face}: expected a fraction above 0 and at most 1")
  if options.yunet is not None:
    return YuNetDetector(options.yunet)
  return HaarDetector(smallest_face=options.smallest_face)
