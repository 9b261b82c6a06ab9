"""A wall clock that goes back, and numbers that are none."""

import random
import shutil
import signal

from tests.faults.world import STEPS, World, lost_after, saved_steps


def clock_going_back(world: World, chance: random.Random) -> dict[str, float | str]:
  """Lets the wall clock go back by an hour after a step, and by another before the restart of the run, told to stop."""
  assert world.whole
  workdir = world.new_folder()
  jump = chance.randint(1, STEPS - 3)
  fault = {"clock": [7200, jump], "stop_at_step": chance.randint(jump + 1, STEPS - 1)}
  done = world.run(workdir, fault=fault)
  assert done.status == 128 + signal.SIGTERM, done
  return {"steps_lost": lost_after(world, workdir)}


def loss_not_a_number(world: World, chance: random.Random) -> dict[str, float | str]:
  """Makes every parameter NaN after a step; the run says so and keeps its checkpoints, and goes on without."""
  assert world.whole
  workdir = world.new_folder()
  shutil.copytree(world.interrupted, workdir)
  done = world.run(workdir, fault={"nan_at_step": chance.randint(1, 10)})
  assert done.status == 1, done
  assert "training diverged" in done.error, done.error
  assert saved_steps(workdir)
  return {"steps_lost": lost_after(world, workdir)}
