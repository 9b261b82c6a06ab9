"""Recognises facial expressions live: a window that shows a camera, a video or an image.

Examples:
  python -m fer_jax.apps.live --checkpoint=WORKDIR
  python -m fer_jax.apps.live --checkpoint=WORKDIR --video=FILE --photos=DIR

WORKDIR is the folder of a finished run. Each photo is saved twice: unchanged, and with its faces annotated.
"""

import argparse
import functools
import importlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from fer_jax.apps.predictions.options import (
  add_checkpoint_option,
  add_detector_options,
  add_views_option,
  print_detector_note,
)
from fer_jax.faces.cascades import HaarDetector, video_detector
from fer_jax.inference.predictor import load_predictor
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path

_PROBE = "from PySide6.QtGui import QGuiApplication; QGuiApplication([])"
_PROBE_SECONDS = 30.0
_INSTALL = 'pip install "PySide6-Essentials<6.12"'


def main(arguments: Sequence[str] | None = None) -> int:
  """Opens the window and returns its exit status; raises UserError if it cannot be opened or a flag is invalid."""
  flags = _parser().parse_args(arguments)
  if not 0 <= flags.smoothing < math.inf:
    raise UserError(f"--smoothing={flags.smoothing}: expected a half-life in seconds, or 0 to disable smoothing")
  if flags.video is not None and not flags.video.is_file():
    raise UserError(f"--video={flags.video}: no such file; expected a video file")
  # Checked before loading the network: Qt would abort the process without an error message.
  check_display()
  load_run = functools.partial(load_predictor, detector=flags.detector, yunet=flags.yunet, views=flags.views)
  predictor = load_run(flags.checkpoint)
  print_detector_note(flags.detector, predictor.detector)
  # The networks are fast enough for a camera; Haar cascades need a reduced search.
  fast_detector = video_detector() if isinstance(predictor.detector, HaarDetector) else None

  from fer_jax.apps.live_window.layout import application
  from fer_jax.apps.live_window.window import LiveWindow

  app = application()

  source = flags.camera if flags.video is None else flags.video
  window = LiveWindow(predictor, load_run, flags.photos, flags.smoothing, fast_detector, source)
  window.resize(1120, 720)
  window.show()
  status = int(app.exec())
  if not window.ended:
    # A thread is still compiling or blocked in a camera call; a regular interpreter shutdown would abort.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def check_display() -> None:
  """Raises UserError if no window can be opened, since Qt itself would abort the process without a clear message."""
  try:
    importlib.import_module("PySide6.QtWidgets")
  except ModuleNotFoundError:
    raise UserError(f"the window needs PySide6, which is not installed: {_INSTALL}") from None
  except ImportError as error:
    raise UserError(f"Qt cannot start ({error}): install the system package that provides the library") from None
  version = importlib.import_module("PySide6").__version__
  if version.startswith("6.12.0") and sys.version_info < (3, 12):
    # This version drops a reference to None at each repaint; before Python 3.12 that ends the interpreter.
    raise UserError(f"PySide6 {version} ends the program after a minute on this Python version: {_INSTALL}")
  platform = os.environ.get("QT_QPA_PLATFORM")
  if sys.platform == "linux" and not (platform or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    raise UserError("there is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set)")
  # Qt aborts if the display or one of its libraries is missing, so try it in a separate process first.
  try:
    probe = subprocess.run(
      [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    )
  except subprocess.TimeoutExpired:
    raise UserError(f"opening the display timed out after {_PROBE_SECONDS:.0f} s") from None
  if probe.returncode:
    lines = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    raise UserError(f"Qt cannot open a window: {lines[0] if lines else f'it ended with status {probe.returncode}'}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.live",
    description="Open a window that recognises facial expressions in a camera, a video or an image.",
  )
  add_checkpoint_option(parser)
  add_views_option(parser)
  source = parser.add_mutually_exclusive_group()
  source.add_argument("--camera", type=int, metavar="INDEX", help="camera that the chooser shows first")
  source.add_argument("--video", type=local_path, metavar="FILE", help="video to open instead of a camera")
  parser.add_argument(
    "--photos",
    type=local_path,
    default="photos",
    metavar="DIR",
    help="folder for saved photos (default: %(default)s)",
  )
  add_detector_options(parser)
  parser.add_argument(
    "--smoothing",
    type=float,
    default=0.5,
    metavar="SECONDS",
    help="half-life of the smoothing of a face's probabilities; 0 disables it (default: %(default)s)",
  )
  return parser


if __name__ == "__main__":
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would not handle Ctrl-C while Qt's event loop runs
  run(main)
