"""A wall clock that goes back, and numbers that are none."""

import random
import shutil
import signal

from tests.faults.world import World, finish, last_step, lost_after, saved_steps, wait_for


def clock_going_back(world: World, chance: random.Random) -> dict[str, float]:
  """Lets the wall clock go back by an hour within a run, and by another before its restart."""
  assert world.whole
  workdir = world.new_folder()
  ahead = chance.uniform(3600, 7200)
  process = world.start(workdir, fault={"clock": [ahead, chance.uniform(0.5, 0.9) * world.seconds]})
  at = chance.randint(6, 28)
  wait_for(lambda: last_step(workdir) >= at, process)
  process.send_signal(signal.SIGKILL)
  finish(process)
  return {"steps_lost": lost_after(world, workdir)}


def loss_not_a_number(world: World, chance: random.Random) -> dict[str, float]:
  """Makes every parameter NaN at a random step; the run says so and keeps its checkpoints, and goes on without."""
  workdir = world.new_folder()
  shutil.copytree(world.interrupted, workdir)
  done = world.run(workdir, fault={"nan_at_step": chance.randint(1, 10)})
  assert done.status == 1, done
  assert "training diverged" in done.error, done.error
  assert saved_steps(workdir)
  return {"steps_lost": lost_after(world, workdir)}
