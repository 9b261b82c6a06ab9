"""Faults of a run of two processes: one of them is killed."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.runtime.processes import JOIN_SECONDS
from tests.faults.faulty_run import PHASES
from tests.faults.harness import (
  STEPS,
  Harness,
  Process,
  ProcessResult,
  assert_same_run,
  finish,
  free_port,
  killing_at_exit,
  last_step,
  resumed_from,
  saved_steps,
)

_TIMEOUT = 60  # seconds within which the other process has to exit
_ABORTED_BY_JAX = -signal.SIGABRT


def killed_one_of_two(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Kills one of two processes some time after it has entered a phase, and then restarts both."""
  undisturbed = _undisturbed(harness)
  while True:
    workdir, victim = harness.new_folder(), rng.randrange(2)
    phase = rng.choice([name for name in PHASES if victim == 0 or name != "report"])  # only process 0 writes the report
    number = {"step": rng.randint(1, STEPS), "checkpoint": rng.randint(1, 6), "evaluation": rng.randint(1, 5)}
    fault = {"kill_in": [phase, number.get(phase, 1), rng.choice([0, rng.uniform(0, 1)])]}
    processes = _start(harness, workdir, {victim: fault})
    with killing_at_exit(processes):
      killed = finish(processes[victim])
      since = time.monotonic()
      # A process that has not been joined by the other waits until the timeout for joining.
      other = finish(processes[1 - victim], _TIMEOUT + (JOIN_SECONDS if phase == "join" else 0))
      seconds = time.monotonic() - since
    if killed.status == 0:  # it had finished before
      continue
    assert killed.status == -signal.SIGKILL, (fault, victim, killed, other)
    finished = (workdir / "result.json").exists()
    _assert_reason(other, finished)
    reached, saved = last_step(workdir), saved_steps(workdir)
    both = _finish(_start(harness, workdir))
    assert [each.status for each in both] == [0, 0], (fault, victim, both)
    assert_same_run(undisturbed, workdir)
    resumed = resumed_from(both[0])
    assert finished or resumed == (saved[-1] if saved else 0), (resumed, saved)
    return {"steps_lost": 0 if finished else max(reached - resumed, 0), "seconds": seconds}


def _assert_reason(other: ProcessResult, finished: bool) -> None:
  """Asserts that the other process gave the reason for its exit: one line, or JAX's message if JAX aborted it."""
  if other.status == 0:
    assert finished, other
  elif other.status == _ABORTED_BY_JAX:
    assert "coordination service" in other.err, other
  else:
    assert other.status == 1, other
    assert other.error


def _undisturbed(harness: Harness) -> Path:
  """Returns the folder of an undisturbed run of two processes."""
  assert harness.undisturbed

  def create(workdir: Path) -> None:
    both = _finish(_start(harness, workdir))
    assert [each.status for each in both] == [0, 0], both

  return harness.shared("undisturbed_two_processes", create)


def _start(harness: Harness, workdir: Path, faults: dict[int, dict[str, Any]] | None = None) -> list[Process]:
  port = free_port()
  return [
    harness.start(
      workdir,
      "--processes=2",
      f"--process={number}",
      f"--coordinator=127.0.0.1:{port}",
      fault=(faults or {}).get(number),
      environment={"JAX_NUM_CPU_DEVICES": "2"},
    )
    for number in range(2)
  ]


def _finish(processes: Sequence[Process]) -> list[ProcessResult]:
  with killing_at_exit(processes):
    return [finish(process) for process in processes]
