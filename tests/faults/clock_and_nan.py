"""Faults of the wall clock and of the parameters: time that goes back, and NaN."""

import random
import shutil
import signal

from tests.faults.harness import STEPS, Harness, restart_and_compare, saved_steps


def clock_going_back(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Sets the wall clock back by an hour after a step, and by another hour between the stop and the restart of a run."""
  assert harness.undisturbed
  workdir = harness.new_folder()
  jump = rng.randint(1, STEPS - 3)
  fault = {"clock": [7200, jump], "stop_at_step": rng.randint(jump + 1, STEPS - 1)}
  done = harness.run(workdir, fault=fault)
  assert done.status == 128 + signal.SIGTERM, done
  return {"steps_lost": restart_and_compare(harness, workdir)}


def parameters_nan(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Sets all parameters to NaN after a step; the run fails, keeps its checkpoints and is restarted normally."""
  assert harness.undisturbed
  workdir = harness.new_folder()
  shutil.copytree(harness.interrupted, workdir)
  done = harness.run(workdir, fault={"nan_at_step": rng.randint(1, 10)})
  assert done.status == 1, done
  assert "training diverged" in done.error, done.error
  assert saved_steps(workdir)
  return {"steps_lost": restart_and_compare(harness, workdir)}
