"""One process of a run: fer_jax.main, with the same flags, on the striped images of tests.tiny_run."""

import dataclasses
import os
import signal
import sys
import time

from fer_jax import main
from fer_jax.data import arrays
from fer_jax.runtime import errors
from fer_jax.training import checkpoint
from tests.tiny_run import tiny_arrays


def _inject_fault(name: str) -> None:
  """Injects the fault with this name into the process."""
  save = checkpoint.Checkpoints._save

  def other_arrays(*arguments, **options):
    found = tiny_arrays()
    return dataclasses.replace(found, image=255 - found.image, fingerprint="inverted")

  def unreadable(*arguments):
    raise OSError(5, "Input/output error")

  def killed(self, state, iterator, progress, accuracy):
    if progress.step == 10:
      os.kill(os.getpid(), signal.SIGKILL)
    save(self, state, iterator, progress, accuracy)

  def terminated(self, state, iterator, progress, accuracy):
    save(self, state, iterator, progress, accuracy)
    if progress.step == 10:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(3)  # until all processes know of the signal

  if name == "other data":
    arrays.load = other_arrays
  elif name == "unreadable checkpoint":
    checkpoint.Checkpoints.restore_state = unreadable
  elif name == "killed in a save":
    checkpoint.Checkpoints._save = killed
  elif name == "SIGTERM in a save":
    checkpoint.Checkpoints._save = terminated


if __name__ == "__main__":
  arrays.load = tiny_arrays
  if "--process=1" in sys.argv:
    _inject_fault(os.environ.get("FER_JAX_TEST_FAULT", ""))
  errors.run(main.main)
