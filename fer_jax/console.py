"""Console script: `fer-jax predict photos/ --out=faces.csv` runs `python -m fer_jax.apps.predict photos/ ...`."""

import runpy
import sys

from fer_jax.runtime.errors import UserError, run

COMMANDS = {
  "predict": ("fer_jax.apps.predict", "recognise the expressions of faces in images, folders and videos"),
  "live": ("fer_jax.apps.live", "recognise expressions live, in a window, from a camera, a video or an image"),
  "prepare": ("fer_jax.apps.prepare", "check a dataset's files and prepare them for training"),
  "fetch": ("fer_jax.apps.fetch", "download a face detector or pretrained weights to the cache"),
  "train": ("fer_jax.main", "train a config, evaluate it and write its report"),
  "evaluate": ("fer_jax.apps.evaluate", "evaluate a trained network on any prepared dataset"),
  "report": ("fer_jax.apps.report", "write the report of a run again, or compare several runs"),
  "ensemble": ("fer_jax.apps.ensemble", "average the predictions of finished runs"),
  "export": ("fer_jax.apps.export", "write a trained network as StableHLO, ONNX or safetensors"),
  "audit": ("fer_jax.apps.audit", "find duplicates, conflicting labels and train/test overlap in a dataset"),
  "bench": ("fer_jax.apps.bench", "measure speed and memory"),
}


def main() -> None:
  """Runs the command named by the first argument with the remaining arguments."""
  run(_main)  # also handles Ctrl-C while the command is imported


def _main() -> None:
  name, *arguments = sys.argv[1:] or [""]
  if name in ("-h", "--help"):
    print(_usage())
    return
  if name not in COMMANDS:
    problem = f"unknown command {name!r}" if name else "no command"
    raise UserError(f"{problem}; expected one of {', '.join(COMMANDS)}; run fer-jax --help for a description")
  module, _ = COMMANDS[name]
  sys.path.insert(0, "")  # as `python -m` does: a config may import modules of the current folder
  sys.argv = [name, *arguments]
  runpy.run_module(module, run_name="__main__", alter_sys=True)


def _usage() -> str:
  lines = [f"  {name:<10}{description}" for name, (_, description) in COMMANDS.items()]
  return "\n".join(["usage: fer-jax COMMAND [--help] ...", "", *lines])
