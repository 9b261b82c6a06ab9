"""Command-line options shared by the programs that load a network and detect faces."""

import argparse
import os
from pathlib import Path

from fer_jax.inference.predictor import VIEWS


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


def add_yunet_option(parser: argparse.ArgumentParser) -> None:
  """Adds --yunet, the path of YuNet's model file, to a parser."""
  parser.add_argument(
    "--yunet", type=Path, metavar="MODEL", help="detect faces with this face_detection_yunet_2023mar.onnx"
  )
