"""A run of two processes, one of which is killed."""

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.world import (
  STEPS,
  Ended,
  World,
  ending,
  finish,
  free_port,
  last_step,
  same_run,
  saved_steps,
  wait_for,
)

_NOTICED = 60  # seconds within which the other process has to end


def killed_one_of_two(world: World, chance: random.Random) -> dict[str, float]:
  """Kills one of two processes at a random step of their run; then starts both again."""
  whole = _whole(world)
  workdir, victim = world.new_folder(), chance.randrange(2)
  processes = _start(world, workdir)
  with ending(processes):
    at = chance.randint(1, STEPS - 2)
    wait_for(lambda: last_step(workdir) >= at, processes[victim])
    processes[victim].kill()
    killed = time.monotonic()
    left = finish(processes[1 - victim], _NOTICED)
    seconds = time.monotonic() - killed
  assert left.status not in (0, -signal.SIGKILL), left
  assert left.err.strip(), "it ended without a word"
  reached, saved = last_step(workdir), saved_steps(workdir)
  both = _finish(_start(world, workdir))
  assert [each.status for each in both] == [0, 0], both
  same_run(whole, workdir)
  return {"steps_lost": max(reached - (saved[-1] if saved else 0), 0), "seconds": seconds}


def _whole(world: World) -> Path:
  """Returns the folder of a run of two processes that nothing disturbed."""
  assert world.whole

  def make(workdir: Path) -> None:
    both = _finish(_start(world, workdir))
    assert [each.status for each in both] == [0, 0], both

  return world.made("whole_of_two", make)


def _start(world: World, workdir: Path) -> list["subprocess.Popen[str]"]:
  port = free_port()
  return [
    world.start(
      workdir,
      *("--processes=2", f"--process={number}", f"--coordinator=127.0.0.1:{port}"),
      environment={"JAX_NUM_CPU_DEVICES": "2"},
    )
    for number in range(2)
  ]


def _finish(processes: Sequence["subprocess.Popen[str]"]) -> list[Ended]:
  with ending(processes):
    return [finish(process) for process in processes]
