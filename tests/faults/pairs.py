"""A run of two processes, one of which is killed."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.runtime.processes import JOIN_SECONDS
from tests.faults.child import PHASES
from tests.faults.world import (
  STEPS,
  Ended,
  Process,
  World,
  ending,
  finish,
  free_port,
  last_step,
  resumed_from,
  same_run,
  saved_steps,
)

_NOTICED = 60  # seconds within which the other process has to end
_JAX_ENDS_IT = -signal.SIGABRT


def killed_one_of_two(world: World, chance: random.Random) -> dict[str, float | str]:
  """Kills one of two processes some time after a phase of its has begun; then starts both again."""
  whole = _whole(world)
  while True:
    workdir, victim = world.new_folder(), chance.randrange(2)
    phase = chance.choice([name for name in PHASES if victim == 0 or name != "report"])  # which process 0 alone writes
    number = {"step": chance.randint(1, STEPS), "checkpoint": chance.randint(1, 6), "evaluation": chance.randint(1, 5)}
    fault = {"kill_in": [phase, number.get(phase, 1), chance.choice([0, chance.uniform(0, 1)])]}
    processes = _start(world, workdir, {victim: fault})
    with ending(processes):
      killed = finish(processes[victim])
      since = time.monotonic()
      # Where the other one has not met it, it waits for it as long as for one that comes late.
      left = finish(processes[1 - victim], _NOTICED + (JOIN_SECONDS if phase == "join" else 0))
      seconds = time.monotonic() - since
    if killed.status == 0:  # it had reached its end before
      continue
    assert killed.status == -signal.SIGKILL, (fault, victim, killed, left)
    finished = (workdir / "result.json").exists()
    _expect_words(left, finished)
    reached, saved = last_step(workdir), saved_steps(workdir)
    both = _finish(_start(world, workdir))
    assert [each.status for each in both] == [0, 0], (fault, victim, both)
    same_run(whole, workdir)
    began = resumed_from(both[0])
    assert finished or began == (saved[-1] if saved else 0), (began, saved)
    return {"steps_lost": 0 if finished else max(reached - began, 0), "seconds": seconds}


def _expect_words(left: Ended, finished: bool) -> None:
  """Asserts that the other process has said why it ended: in a line, or where JAX has ended it, in JAX's words."""
  if left.status == 0:
    assert finished, left
  elif left.status == _JAX_ENDS_IT:
    assert "coordination service" in left.err, left
  else:
    assert left.status == 1, left
    assert left.error


def _whole(world: World) -> Path:
  """Returns the folder of a run of two processes that nothing disturbed."""
  assert world.whole

  def make(workdir: Path) -> None:
    both = _finish(_start(world, workdir))
    assert [each.status for each in both] == [0, 0], both

  return world.made("whole_of_two", make)


def _start(world: World, workdir: Path, faults: dict[int, dict[str, Any]] | None = None) -> list[Process]:
  port = free_port()
  return [
    world.start(
      workdir,
      *("--processes=2", f"--process={number}", f"--coordinator=127.0.0.1:{port}"),
      fault=(faults or {}).get(number),
      environment={"JAX_NUM_CPU_DEVICES": "2"},
    )
    for number in range(2)
  ]


def _finish(processes: Sequence[Process]) -> list[Ended]:
  with ending(processes):
    return [finish(process) for process in processes]
