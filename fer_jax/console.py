"""The console script: `fer-jax predict photos/ --out=faces.csv` is `python -m fer_jax.apps.predict photos/ ...`."""

import runpy
import sys

COMMANDS = {
  "predict": ("fer_jax.apps.predict", "say what the faces in images, folders and videos express"),
  "live": ("fer_jax.apps.live", "the same in a window, from a camera, a video or an image"),
  "prepare": ("fer_jax.apps.prepare", "check a dataset's files and prepare them for training"),
  "train": ("fer_jax.main", "train a config, evaluate it and write its report"),
  "report": ("fer_jax.apps.report", "write the report of a run again, or of runs side by side"),
  "ensemble": ("fer_jax.apps.ensemble", "average the predictions of finished runs"),
  "export": ("fer_jax.apps.export", "write a trained network as StableHLO, ONNX or safetensors"),
  "audit": ("fer_jax.apps.audit", "look for duplicates, conflicting labels and overlaps in a dataset"),
  "bench": ("fer_jax.apps.bench", "measure speed and memory"),
}


def main() -> None:
  """Runs the program that the first argument names, with the arguments after it."""
  name, *arguments = sys.argv[1:] or [""]
  if name in ("-h", "--help"):
    print(_usage())
    return
  if name not in COMMANDS:
    wrong = f"unknown command {name!r}" if name else "no command"
    sys.exit(_stop(f"error: {wrong}; expected one of {', '.join(COMMANDS)}; fer-jax --help says what they do"))
  module, _ = COMMANDS[name]
  sys.path.insert(0, "")  # as `python -m` does: a config may import what stands beside it
  sys.argv = [name, *arguments]
  runpy.run_module(module, run_name="__main__", alter_sys=True)


def _usage() -> str:
  lines = [f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items()]
  return "\n".join(["usage: fer-jax COMMAND [--help] ...", "", *lines])


def _stop(message: str) -> int:
  print(message, file=sys.stderr)
  return 2
