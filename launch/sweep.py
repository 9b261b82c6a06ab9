"""Runs a sweep of trainings: `python launch/sweep.py configs/sweeps/hsic_blocks.py:small`; `--help` shows the usage."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the folder configs

from fer_jax.apps.sweeps.command_line import main
from fer_jax.errors import run

if __name__ == "__main__":
  run(main)
