"""Faults of a single process: killed with SIGKILL, or stopped with SIGTERM."""

import random
import signal
import time

from tests.faults.harness import (
  STEPS,
  Harness,
  ProcessResult,
  finish,
  killing_at_exit,
  last_step,
  restart_and_compare,
  saved_steps,
  wait_for,
  wait_for_step,
)

GRACE = 30  # seconds that clusters give between SIGTERM and SIGKILL

# Patterns of file operations: outside checkpoints, while a checkpoint is removed, while one is written.
_ELSEWHERE = r"^(?!.*/checkpoints)"
_REMOVAL = r"^(shutil\.rmtree|os\.remove|os\.rmdir) /checkpoints/\d+(/|$)"
_WRITE = rf"(?!{_REMOVAL})^.*/checkpoints"


def killed_any_time(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Kills a run that was started by its command, some time after an event that is visible from outside."""
  assert harness.undisturbed
  while True:
    workdir = harness.new_folder()
    event, seconds = rng.choice(["start", "lock", "config.json", "step", "step", "step", "result.json"]), 0.0
    process = harness.start_command(workdir)
    with killing_at_exit([process]):
      if event == "start":
        seconds = rng.uniform(0, 5)
      elif event == "step":
        wait_for_step(workdir, rng.randint(1, STEPS - 1), process)
        seconds = rng.uniform(0, 0.2)
      else:
        wait_for((workdir / event).exists, process)
        seconds = rng.uniform(0, 2 if event == "config.json" else 0.3)
      time.sleep(seconds)
      process.kill()
      done = finish(process)
    if _killed(done):
      return {"steps_lost": restart_and_compare(harness, workdir)}


def killed_at_file_operation(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Kills a run just before it creates, opens, renames or removes a file outside its checkpoints."""
  return _killed_at(harness, rng, _ELSEWHERE)


def killed_in_checkpoint(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Kills a run just before it creates, opens, renames or removes a file of a checkpoint that is being written."""
  return _killed_at(harness, rng, _WRITE)


def killed_in_removal(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Kills a run just before it removes a file or folder of an old checkpoint."""
  return _killed_at(harness, rng, _REMOVAL)


def _killed_at(harness: Harness, rng: random.Random, among: str) -> dict[str, float | str]:
  count = harness.operations(among)
  while True:  # checkpoints are written concurrently with the steps, so that the number of operations varies
    workdir = harness.new_folder()
    fault = {"record": str(harness.new_folder()), "among": among, "number": rng.randint(1, count)}
    if _killed(harness.run(workdir, fault=fault)):
      return {"steps_lost": restart_and_compare(harness, workdir)}


def _killed(done: ProcessResult) -> bool:
  """Returns whether a run was killed before it finished."""
  assert done.status in (0, -signal.SIGKILL), done
  return done.status != 0


def terminated(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Sends SIGTERM to a run before its first step is logged or after any step; the run has 30 s to save and exit."""
  assert harness.undisturbed
  workdir = harness.new_folder()
  process = harness.start(workdir)
  with killing_at_exit([process]):
    at = rng.choice([0, 0, *range(1, STEPS - 3)])
    # Once its log exists, a run saves and exits on SIGTERM; before, there is nothing to save.
    wait_for_step(workdir, at, process)
    time.sleep(rng.uniform(0, 0.1 if at else 1))
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done = finish(process, GRACE)
    seconds = time.monotonic() - sent
  if last_step(workdir) < STEPS:
    assert done.status == 128 + signal.SIGTERM, done
    assert "run the same command to resume" in done.out
    assert saved_steps(workdir)[-1] >= last_step(workdir)
  else:  # SIGTERM after the last step: the run finishes within the same time
    assert done.status in (0, 128 + signal.SIGTERM), done
  return {"steps_lost": restart_and_compare(harness, workdir), "seconds": seconds}
