"""How much memory the programs take that users start: the peak of each, in a process of its own."""

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
from fer_jax.apps.benchmarks.benchmark import Benchmark, Row
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.errors import Failure

STEPS = 20  # of the training, which reaches its peak at its first evaluations
LIVE_SECONDS = 20.0  # of the window: by then it has shown recognised pictures for ten seconds at least


def memory(config: str, rounds: int) -> Benchmark:
  """Measures the peak of resident memory of a short training, of `apps.predict` and of `apps.live` on what it learned.

  `predict` reads drawn photographs of KDEF's size, 562x762 in colour; `live` shows a drawn video, on no screen where
  there is none.

  Args:
    config: that is trained, FILE.py:VARIANT; its data must be at hand. Of a run of several trainings, the first one is
      what `predict` and `live` use.
    rounds: how often each is started.

  Returns:
    a row for each program, `main` first: `peak_bytes`, the largest of its rounds, in resident memory; on a CPU it holds
    the device's arrays too. There is none for `live` where Qt is not installed.

  Raises:
    Failure: a program ended with an error.
  """
  with tempfile.TemporaryDirectory() as folder:
    place = Path(folder)
    layouts.write_tree("kdef", place / "photographs", subjects=1)
    trained = [_training(config, place / f"run{n}") for n in range(rounds)]
    run = next((place / "run0").glob("replicas/*_0"), place / "run0")
    predict = [f"--checkpoint={run}", f"--out={place / 'rows.csv'}", str(place / "photographs")]
    predicted = [_peak("fer_jax.apps.predict", predict) for _ in range(rounds)]
    rows: list[Row] = [{"name": "main", "peak_bytes": max(trained)}, {"name": "predict", "peak_bytes": max(predicted)}]
    if live.has_window():
      video = place / "scene.avi"
      _write_video(video)
      shown = [f"--checkpoint={run}", f"--video={video}"]
      peaks = [_peak("fer_jax.apps.live", shown, LIVE_SECONDS) for _ in range(rounds)]
      rows.append({"name": "live", "peak_bytes": max(peaks)})
  return Benchmark("main", rows)


def _training(config: str, workdir: Path) -> int:
  return _peak("fer_jax.main", [f"--config={config}", f"--workdir={workdir}", f"--config.duration={STEPS} steps"])


def _peak(module: str, arguments: Sequence[str], seconds: float | None = None) -> int:
  """Returns the peak of resident memory of a program in bytes; it is told to end after so many seconds, if any."""
  with tempfile.TemporaryFile() as errors:
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, stderr=errors)
    if seconds is not None:
      time.sleep(seconds)
      child.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
    if child.returncode not in ((0, 128 + signal.SIGINT, -signal.SIGINT) if seconds is not None else (0,)):
      errors.seek(0)
      said = errors.read().decode(errors="replace").strip().splitlines()[-1:]
      raise Failure(f"python -m {module} {' '.join(arguments)} ended with status {child.returncode}: {''.join(said)}")
  return usage.ru_maxrss * 1024


def _write_video(path: Path) -> None:
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), live.RATE, (live.WIDTH, live.HEIGHT))
  for number in range(round(LIVE_SECONDS * live.RATE)):
    writer.write(live.scene(number))
  writer.release()
