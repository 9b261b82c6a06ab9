"""A process that is killed (-9), or told to stop."""

import random
import signal
import time
from collections.abc import Callable

from tests.faults.world import World, finish, last_step, lost_after, saved_steps, wait_for

GRACE = 30  # seconds that clusters give between SIGTERM and SIGKILL


def killed_any_time(world: World, chance: random.Random) -> dict[str, float]:
  """Kills a run at a random moment between its start and its end."""
  assert world.whole
  workdir = world.new_folder()
  process = world.start(workdir)
  time.sleep(chance.uniform(0, world.seconds))
  process.kill()
  finish(process)
  return {"steps_lost": lost_after(world, workdir)}


def killed_at_file_operation(world: World, chance: random.Random) -> dict[str, float]:
  """Kills a run just before it makes, opens, renames or removes a file outside its checkpoints."""
  return _killed_at(world, chance, lambda path: "/checkpoints" not in path)


def killed_in_checkpoint(world: World, chance: random.Random) -> dict[str, float]:
  """Kills a run within a checkpoint write, or while an older checkpoint is removed."""
  return _killed_at(world, chance, lambda path: "/checkpoints" in path)


def _killed_at(world: World, chance: random.Random, among: Callable[[str], bool]) -> dict[str, float]:
  assert world.whole
  numbers = [number for number, line in enumerate(world.operations, start=1) if among(line)]
  status = 0
  while status == 0:  # checkpoints are written beside the steps: a run may have some operations less than another
    workdir = world.new_folder()
    status = world.run(workdir, fault={"kill_at_operation": chance.choice(numbers)}).status
  assert status == -signal.SIGKILL, status
  return {"steps_lost": lost_after(world, workdir)}


def told_to_stop(world: World, chance: random.Random) -> dict[str, float]:
  """Sends a run SIGTERM at a random moment of its training; it has 30 s to save and end."""
  assert world.whole
  workdir = world.new_folder()
  process = world.start(workdir)
  at = chance.randint(1, 28)
  wait_for(lambda: last_step(workdir) >= at, process)
  sent = time.monotonic()
  process.send_signal(signal.SIGTERM)
  done = finish(process, GRACE)
  seconds = time.monotonic() - sent
  if done.status == 128 + signal.SIGTERM:
    assert "run the same command to go on" in done.out
    assert saved_steps(workdir)[-1] >= last_step(workdir)
  else:  # it came after the last step: the run ends in the same time
    assert done.status in (0, -signal.SIGTERM), done
  return {"steps_lost": lost_after(world, workdir), "seconds": seconds}
