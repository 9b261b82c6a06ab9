"""Command-line options shared by the programs that load a network and detect faces."""

import argparse
import sys

from fer_jax.faces import detectors
from fer_jax.faces.cascades import HaarDetector
from fer_jax.faces.detection import Detector
from fer_jax.inference.predictor import VIEWS
from fer_jax.runtime.files import local_path


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
  """Adds --checkpoint, the network to use, to a parser."""
  parser.add_argument(
    "--checkpoint",
    type=local_path,
    metavar="MODEL",
    help="folder of a finished run, or .safetensors file of apps.export (default: the network shipped with fer_jax)",
  )


def add_views_option(parser: argparse.ArgumentParser) -> None:
  """Adds --views, test-time augmentation, to a parser."""
  parser.add_argument(
    "--views", choices=VIEWS, default="single", help="flip: average over each face and its mirror image"
  )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
  """Adds --detector and --yunet, the face detector, to a parser."""
  parser.add_argument(
    "--detector",
    choices=detectors.NAMES,
    default="auto",
    help="face detector; whole: each image is one cropped face; auto: yunet if it was downloaded, else cascade",
  )
  parser.add_argument(
    "--yunet", type=local_path, metavar="MODEL", help="model for YuNet (default: the one of fer_jax.apps.fetch yunet)"
  )
  parser.add_argument("--face", type=_renamed, help=argparse.SUPPRESS)


def _renamed(value: str) -> str:
  raise argparse.ArgumentTypeError(f"the flag is now --detector={'whole' if value == 'whole' else 'auto'}")


def print_detector_note(name: str, detector: Detector | None) -> None:
  """Prints what a better detector would gain if "auto" had to select the Haar cascades."""
  if name == "auto" and isinstance(detector, HaarDetector):
    print(
      "note: OpenCV's cascades detect the faces and miss about a fifth of those that YuNet finds: "
      "python -m fer_jax.apps.fetch yunet (0.2 MB); --detector=cascade hides this note",
      file=sys.stderr,
    )
