"""The options that all programs share which look for faces."""

import argparse
import os
from pathlib import Path

from fer_jax.errors import UserError
from fer_jax.faces.detection import Detector, HaarDetector, YuNetDetector
from fer_jax.predictor import FACES, SMALLEST_FACE, VIEWS


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
  """Adds --checkpoint, which network is used, to a program's options."""
  parser.add_argument(
    "--checkpoint",
    type=lambda text: Path(os.path.expanduser(text)),  # a shell leaves the ~ of --checkpoint=~/run to the program
    metavar="MODEL",
    help="folder of a finished run, or a .safetensors file of apps.export (default: the network of the package)",
  )


def add_views_option(parser: argparse.ArgumentParser) -> None:
  """Adds --views to a program's options."""
  parser.add_argument(
    "--views", choices=VIEWS, default="single", help="flip: average over each face and its mirror image"
  )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
  """Adds --face, --yunet and --smallest_face to a program's options."""
  parser.add_argument("--face", choices=FACES, default="auto", help="whole: pictures are cut to one face already")
  add_yunet_option(parser)
  parser.add_argument(
    "--smallest_face",
    type=float,
    default=SMALLEST_FACE,
    metavar="SHARE",
    help="of the picture's shorter side; smaller faces are not looked for, unless with --yunet (default: %(default)s)",
  )


def add_yunet_option(parser: argparse.ArgumentParser) -> None:
  """Adds --yunet to a program's options."""
  parser.add_argument(
    "--yunet", type=Path, metavar="MODEL", help="find faces with this face_detection_yunet_2023mar.onnx"
  )


def detector_of(options: argparse.Namespace) -> Detector:
  """Returns the detector that options ask for; raises UserError where they are out of range or YuNet's file is none."""
  if not 0 < options.smallest_face <= 1:
    raise UserError(f"--smallest_face={options.smallest_face}: expected a share, above 0 and at most 1")
  if options.yunet is not None:
    return YuNetDetector(options.yunet)
  return HaarDetector(smallest_face=options.smallest_face)
