"""Trains a config: `python -m fer_jax.main --config=configs/hsic.py:demo`; `--help` shows the usage."""

import sys

from fer_jax.config import command_line
from fer_jax.runtime import errors, processes


def main() -> int:
  """Trains, evaluates and writes the report; returns the exit status."""
  command = command_line.parse(sys.argv)
  if command is None:
    print(command_line.USAGE)
    return 0
  if not command.multi_process:
    return _train(command)
  processes.join(command.address)
  return processes.run(lambda: _train(command))


def _train(command: command_line.Command) -> int:
  # Imported late, so that a typo in a flag is reported at once, without waiting for JAX to load.
  from fer_jax.runtime.interruption import Interrupted
  from fer_jax.training.checkpoint import silence_orbax
  from fer_jax.training.train import train_and_evaluate

  silence_orbax()
  try:
    result = train_and_evaluate(command.config, command.workdir, command.source, command.overrides)
  except Interrupted as stop:
    return 128 + stop.signum
  if processes.index() == 0:
    # Imported only now: the plots take most of a second to import, which would delay the first training step.
    from fer_jax.apps.report import write_report

    print(f"test accuracy {result.accuracy:.4f} on {result.dataset} in {result.seconds:.0f} s")
    print(f"report: {write_report(command.workdir)}")
  return 0


if __name__ == "__main__":
  errors.run(main)
