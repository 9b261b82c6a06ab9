"""Peak memory of the main programs, each in a separate process."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from fer_jax.apps.benchmarks import live
from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, last_line
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import Failure

STEPS = 20  # training steps; memory peaks at the first evaluations
LIVE_SECONDS = 20.0  # duration of the window, of which at least ten seconds show recognised frames


def memory(config: str, rounds: int) -> Benchmark:
  """Measures peak resident memory of a short training run, and of `apps.predict` and `apps.live` on its checkpoint.

  `predict` reads drawn photographs of KDEF's size, 562x762 in colour; `live` shows a drawn video, off-screen if there
  is no display.

  Args:
    config: Config of the training run, FILE.py:VARIANT; its data must be available. If the run has several replicas,
      `predict` and `live` use the first one.
    rounds: Number of starts of each program.

  Returns:
    One row per program, `main` first, with `peak_bytes`: the maximum over the rounds; on a CPU it includes the arrays
    of the device. The row of `live` is omitted if Qt is not installed.

  Raises:
    Failure: A program ended with an error.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    layouts.write_tree("kdef", folder / "photographs", subjects=1)
    train_flags = [f"--config={config}", f"--config.duration={STEPS} steps"]
    trained = [_peak("fer_jax.main", [*train_flags, f"--workdir={folder / f'run{n}'}"]) for n in range(rounds)]
    run = next((folder / "run0").glob("replicas/*_0"), folder / "run0")
    predict_flags = [f"--checkpoint={run}", f"--out={folder / 'rows.csv'}", str(folder / "photographs")]
    predicted = [_peak("fer_jax.apps.predict", predict_flags) for _ in range(rounds)]
    rows: list[Row] = [{"name": "main", "peak_bytes": max(trained)}, {"name": "predict", "peak_bytes": max(predicted)}]
    if live.has_window():
      video = folder / "scene.avi"
      _write_video(video)
      live_flags = [f"--checkpoint={run}", f"--video={video}"]
      peaks = [_peak("fer_jax.apps.live", live_flags, LIVE_SECONDS) for _ in range(rounds)]
      rows.append({"name": "live", "peak_bytes": max(peaks)})
  return Benchmark("main", rows)


def _peak(module: str, arguments: Sequence[str], seconds: float | None = None) -> int:
  """Returns the peak resident memory of a program in bytes; the program is interrupted after `seconds`, if given."""
  with tempfile.TemporaryFile() as errors:
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, stderr=errors)
    if seconds is not None:
      time.sleep(seconds)
      child.send_signal(signal.SIGINT)
    # wait4 returns the resource usage of this child alone; RUSAGE_CHILDREN would be the maximum of all children.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # the child is reaped: Popen must not wait for it again
    if child.returncode not in ((0, 128 + signal.SIGINT, -signal.SIGINT) if seconds is not None else (0,)):
      errors.seek(0)
      reason = last_line(errors.read().decode(errors="replace"))
      raise Failure(f"python -m {module} {' '.join(arguments)} ended with status {child.returncode}: {reason}")
  return usage.ru_maxrss * 1024  # Linux reports KiB


def _write_video(path: Path) -> None:
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), live.RATE, (live.WIDTH, live.HEIGHT))
  for number in range(round(LIVE_SECONDS * live.RATE)):
    writer.write(live.scene(number))
  writer.release()
