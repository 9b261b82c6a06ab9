"""Runs a sweep of training runs, such as `python launch/sweep.py configs/sweeps/hsic_blocks.py:small`; see `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes the package `configs` importable

from fer_jax.apps.sweeps.command_line import main
from fer_jax.runtime.errors import run

if __name__ == "__main__":
  run(main)
