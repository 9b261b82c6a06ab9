"""A process that is killed (-9), or told to stop."""

import random
import signal
import time

from tests.faults.world import (
  STEPS,
  Ended,
  World,
  ending,
  finish,
  last_step,
  lost_after,
  saved_steps,
  wait_for,
  wait_for_step,
)

GRACE = 30  # seconds that clusters give between SIGTERM and SIGKILL

# Of the operations on files: of no checkpoint, of one being written, of one being removed.
_ELSEWHERE = r"^(?!.*/checkpoints)"
_REMOVAL = r"^(shutil\.rmtree|os\.remove|os\.rmdir) /checkpoints/\d+(/|$)"
_WRITE = rf"(?!{_REMOVAL})^.*/checkpoints"


def killed_any_time(world: World, chance: random.Random) -> dict[str, float | str]:
  """Kills a run, started as users start it, some time after a moment of its life that can be seen from outside."""
  assert world.whole
  while True:
    workdir = world.new_folder()
    moment, seconds = chance.choice(["start", "lock", "config.json", "step", "step", "step", "result.json"]), 0.0
    process = world.start_command(workdir)
    with ending([process]):
      if moment == "start":
        seconds = chance.uniform(0, 5)
      elif moment == "step":
        wait_for_step(workdir, chance.randint(1, STEPS - 1), process)
        seconds = chance.uniform(0, 0.2)
      else:
        wait_for((workdir / moment).exists, process)
        seconds = chance.uniform(0, 2 if moment == "config.json" else 0.3)
      time.sleep(seconds)
      process.kill()
      done = finish(process)
    if _killed(done):
      return {"steps_lost": lost_after(world, workdir)}


def killed_at_file_operation(world: World, chance: random.Random) -> dict[str, float | str]:
  """Kills a run just before it makes, opens, renames or removes a file outside its checkpoints."""
  return _killed_at(world, chance, _ELSEWHERE)


def killed_in_checkpoint(world: World, chance: random.Random) -> dict[str, float | str]:
  """Kills a run just before it makes, opens, renames or removes a file of a checkpoint that is being written."""
  return _killed_at(world, chance, _WRITE)


def killed_in_removal(world: World, chance: random.Random) -> dict[str, float | str]:
  """Kills a run just before it removes a file or a folder of a checkpoint that it no longer keeps."""
  return _killed_at(world, chance, _REMOVAL)


def _killed_at(world: World, chance: random.Random, among: str) -> dict[str, float | str]:
  count = world.operations(among)
  while True:  # checkpoints are written beside the steps: a run may have some operations less than another
    workdir = world.new_folder()
    fault = {"record": str(world.new_folder()), "among": among, "number": chance.randint(1, count)}
    if _killed(world.run(workdir, fault=fault)):
      return {"steps_lost": lost_after(world, workdir)}


def _killed(done: Ended) -> bool:
  """Returns whether a run was killed; False where it had reached its end before."""
  assert done.status in (0, -signal.SIGKILL), done
  return done.status != 0


def told_to_stop(world: World, chance: random.Random) -> dict[str, float | str]:
  """Sends a run SIGTERM before its first step is logged, or after any other; it has 30 s to save and end."""
  assert world.whole
  workdir = world.new_folder()
  process = world.start(workdir)
  with ending([process]):
    at = chance.choice([0, 0, *range(1, STEPS - 3)])
    # From the log on, a signal is a wish; before, there is nothing that could be saved.
    wait_for_step(workdir, at, process)
    time.sleep(chance.uniform(0, 0.1 if at else 1))
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done = finish(process, GRACE)
    seconds = time.monotonic() - sent
  if last_step(workdir) < STEPS:
    assert done.status == 128 + signal.SIGTERM, done
    assert "run the same command to resume" in done.out
    assert saved_steps(workdir)[-1] >= last_step(workdir)
  else:  # it came after the last step, and the run ends in the same time
    assert done.status in (0, 128 + signal.SIGTERM), done
  return {"steps_lost": lost_after(world, workdir), "seconds": seconds}
