"""A window that shows a camera, a video or an image, and says what the faces in it express.

Examples:
  python -m fer_jax.apps.live --checkpoint=WORKDIR
  python -m fer_jax.apps.live --checkpoint=WORKDIR --video=FILE --photos=DIR

The run's folder is that of a finished training. Photos are saved as they are and, beside that, with their faces marked.
"""

import argparse
import importlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_jax.apps.live_window.recognition import live_detector
from fer_jax.apps.predictions.options import add_checkpoint_option, add_views_option, add_yunet_option
from fer_jax.errors import UserError, run
from fer_jax.faces.detection import YuNetDetector
from fer_jax.predictor import Predictor, load

_PROBE = "from PySide6.QtGui import QGuiApplication; QGuiApplication([])"
_PROBE_SECONDS = 30.0
_INSTALL = 'pip install "PySide6-Essentials<6.12"'


def main(arguments: Sequence[str] | None = None) -> int:
  """Opens the window and returns its exit status; raises UserError where it cannot, or where a flag is wrong."""
  flags = _parser().parse_args(arguments)
  if not 0 <= flags.smoothing < math.inf:
    raise UserError(f"--smoothing={flags.smoothing}: expected a half-life in seconds, or 0 for none")
  if flags.video is not None and not flags.video.is_file():
    raise UserError(f"--video={flags.video}: there is no such file")
  # YuNet is fast enough for a camera; the cascades are so with less to look for.
  detector = None if flags.yunet is None else YuNetDetector(flags.yunet)
  moving = live_detector() if detector is None else None
  check_display()
  predictor = load(flags.checkpoint, detector=detector, views=flags.views)

  from fer_jax.apps.live_window.window import LiveWindow, application

  app = application()

  def load_run(workdir: Path) -> Predictor:
    return load(workdir, detector=detector, views=flags.views)

  source = flags.camera if flags.video is None else flags.video
  window = LiveWindow(predictor, load_run, flags.photos, flags.smoothing, moving, source)
  window.resize(1120, 720)
  window.show()
  status = int(app.exec())
  if not window.ended:
    # The interpreter would abort over a thread that is in the midst of compiling or of asking a camera.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def check_display() -> None:
  """Raises UserError where no window can be opened: Qt itself would end the process without a word for the user."""
  try:
    importlib.import_module("PySide6.QtWidgets")
  except ModuleNotFoundError:
    raise UserError(f"the window needs PySide6, which is not installed: {_INSTALL}") from None
  except ImportError as error:
    raise UserError(f"Qt cannot start ({error}): install the system's package with that library") from None
  version = importlib.import_module("PySide6").__version__
  if version.startswith("6.12.0") and sys.version_info < (3, 12):
    # It gives away a reference to None at each repaint, and Python ends when none is left.
    raise UserError(f"PySide6 {version} ends the program after a minute on this Python: {_INSTALL}")
  platform = os.environ.get("QT_QPA_PLATFORM")
  if sys.platform == "linux" and not (platform or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    raise UserError("there is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set)")
  # A display that is not there, or a library of it, makes Qt abort: let it do so in another process.
  try:
    probe = subprocess.run(
      [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    )
  except subprocess.TimeoutExpired:
    raise UserError(f"the display did not answer within {_PROBE_SECONDS:.0f} seconds") from None
  if probe.returncode:
    lines = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    raise UserError(f"Qt cannot open a window: {lines[0] if lines else f'it ended with status {probe.returncode}'}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.live",
    description="Open a window that shows a camera, a video or an image, and what the faces in it express.",
  )
  add_checkpoint_option(parser)
  add_views_option(parser)
  source = parser.add_mutually_exclusive_group()
  source.add_argument("--camera", type=int, metavar="INDEX", help="the camera that the chooser shows first")
  source.add_argument("--video", type=Path, metavar="FILE", help="a video in the place of a camera")
  parser.add_argument(
    "--photos", type=Path, default=Path("photos"), metavar="DIR", help="where photos are saved (default: %(default)s)"
  )
  add_yunet_option(parser)
  parser.add_argument(
    "--smoothing",
    type=float,
    default=0.5,
    metavar="SECONDS",
    help="half-life of what a face's earlier pictures count; 0 takes each alone (default: %(default)s)",
  )
  return parser


if __name__ == "__main__":
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Qt's loop would not let Python see a Ctrl-C
  run(main)
