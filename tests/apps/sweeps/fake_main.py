"""Stand-in for fer_jax.main, which writes the files of a run at once.

FAKE_RUNS maps a part of a run folder's name to another behaviour: {"blocks=2": "fail"}. Every call is appended to the
file FAKE_CALLS.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

ACCURACY = (0.60, 0.62, 0.67)  # by seed


def main() -> None:
  flags = dict(argument.split("=", 1) for argument in sys.argv[1:])
  workdir, seed = Path(flags["--workdir"]), int(flags["--config.seed"])
  with open(os.environ["FAKE_CALLS"], "a") as file:
    file.write(f"{workdir.name}\n")
  behaviours = json.loads(os.environ.get("FAKE_RUNS", "{}"))
  behaviour = next((behaviour for part, behaviour in behaviours.items() if part in workdir.name), "finish")
  if behaviour == "fail":
    print("error: training diverged: loss is nan", file=sys.stderr)
    print("a later warning", file=sys.stderr)
    sys.exit(1)
  if behaviour == "crash":
    raise ValueError("a bug")
  if behaviour == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
  if behaviour == "nothing":
    return
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "config.json").write_text("{}")
  if behaviour.startswith("SIG"):
    wait_for(getattr(signal, behaviour), workdir)
  if behaviour == "folds":
    write_folds(workdir)
  else:
    write(workdir, seed, ACCURACY[seed], 60.0 + seed)


def wait_for(signum: int, workdir: Path) -> None:
  """Sends the signal to the sweep, and saves when the sweep forwards it."""

  def save(received: int, frame: object) -> None:
    (workdir / "saved").write_text(f"{received} {os.getpgid(0) == os.getpgid(os.getppid())}")
    sys.exit(128 + received)

  signal.signal(signum, save)
  os.kill(os.getppid(), signum)
  time.sleep(60)


def write_folds(workdir: Path) -> None:
  """Writes a run of three folds with 100 test images each: the mean of their accuracies, and the sum of the rest."""
  for number, accuracy in enumerate(ACCURACY):
    folder = workdir / "replicas" / f"fold_{number}"
    folder.mkdir(parents=True)
    write(folder, 0, accuracy, 60.0)
  write(workdir, 0, sum(ACCURACY) / 3, 150.0)
  event = {"kind": "event", "step": 0, "text": "3 replicas, 2 at a time"}
  (workdir / "metrics.jsonl").write_text(json.dumps(event) + "\n")
  result = json.loads((workdir / "result.json").read_text())
  result |= {
    "std": 0.036,
    "interval_95": [0.5404, 0.7196],
    "confusion_matrix": [[80, 20], [91, 109]],
    "folds": {"by": "subjects", "count": 3, "seed": 0},
    "runs": [
      {"name": f"fold_{fold}", "seed": 0, "fold": fold, "accuracy": accuracy, "validation_accuracy": accuracy + 0.01}
      for fold, accuracy in enumerate(ACCURACY)
    ],
  }
  (workdir / "result.json").write_text(json.dumps(result))


def write(workdir: Path, seed: int, accuracy: float, seconds: float) -> None:
  records = [
    {"kind": "train", "step": 1, "phase": "p", "loss": 2.0, "accuracy": 0.5},
    *({"kind": "eval", "split": "validation", "step": s, "accuracy": accuracy * s / 20, "loss": 1.0} for s in (10, 20)),
  ]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  result = {
    "version": 2,
    "accuracy": accuracy,
    "loss": 1.0,
    "confusion_matrix": [[round(100 * accuracy), 100 - round(100 * accuracy)], [0, 0]],
    "class_names": ["happy", "sad"],
    "per_class": [],
    "validation": {"accuracy": accuracy, "step": 20},
    "seconds": seconds,
    "stopped": "finished",
    "steps": 20,
    "parameters": 1234,
    "dataset": "synthetic_faces",
    "seeds": [seed],
    "config": "configs/hsic.py:demo",
    "device": "cpu",
    "commit": "0123456789ab",
    "versions": {"jax": "0.10.2"},
    "measured": {"seconds a step": 0.5, "seconds an epoch": 30.0},
    "runs": [{"seed": seed, "accuracy": accuracy}],
  }
  (workdir / "result.json").write_text(json.dumps(result))


main()
