"""Disks that are full, read-only, or somebody else's."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.world import World, ending, finish, lost_after, saved_steps, wait_for_step

# What a run of `world` takes on a disk, about.
_RUN_BYTES = 900_000
# What a fault was put on, for the table.
_REAL, _STAND_IN = "a file system of its own", "files or folders that refuse"


@contextlib.contextmanager
def volume(size: int) -> Iterator[tuple[Path, "subprocess.Popen[str]"] | None]:
  """A file system of so many bytes, in a name space of its own; None where the system gives nobody one.

  Yields:
    its folder, and a process that mounts it again with the options that it is written.
  """
  place = "/mnt"
  script = (
    f"mount -t tmpfs -o size={size} none {place} && echo ready && "
    f'while read -r options; do mount -o "remount,$options" {place} && echo done; done'
  )
  try:
    process = subprocess.Popen(
      ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
  except OSError:
    yield None
    return
  with process:
    assert process.stdin and process.stdout
    ready = process.stdout.readline().strip() == "ready"
    yield (Path(f"/proc/{process.pid}/root{place}"), process) if ready else None
    process.stdin.close()


def remount(process: "subprocess.Popen[str]", options: str) -> None:
  """Mounts a volume again with other options."""
  assert process.stdin and process.stdout
  process.stdin.write(f"{options}\n")
  process.stdin.flush()
  assert process.stdout.readline().strip() == "done"


def full_disk(world: World, chance: random.Random) -> dict[str, float | str]:
  """Lets the disk become full at a random moment of a run; then makes room."""
  assert world.whole
  while True:
    with volume(chance.randrange(8_000, _RUN_BYTES)) as given:
      if given is None:
        return full_file(world, chance)
      place, process = given
      done = world.run(place / "run")
      if done.status == 0:  # what a run writes changes by a little: this disk was not too small
        continue
      assert done.status in (1, 2), done
      assert "No space left" in done.error or "RESOURCE_EXHAUSTED" in done.error, done.error
      remount(process, "size=100m")
      return {"steps_lost": lost_after(world, place / "run"), "on": _REAL}


def full_file(world: World, chance: random.Random) -> dict[str, float | str]:
  """Refuses one of a run's files its content, or every file its growth, as a full disk does; then makes room."""
  assert world.whole
  workdir = world.new_folder()
  name = chance.choice(["config.json.part", "metrics.jsonl", "predictions.npz.part", "result.json.part", ""])
  if not name:
    done = world.run(workdir, fault={"file_size": chance.choice([2000, 4000, 8000])})
    assert done.status == 1, done
    assert "cannot be written" in done.error, done.error
    return {"steps_lost": lost_after(world, workdir), "on": _STAND_IN}
  workdir.mkdir()
  full = workdir / name
  if name != "config.json.part":
    shutil.copytree(world.interrupted, workdir, dirs_exist_ok=True)
    full.unlink(missing_ok=True)
  full.symlink_to("/dev/full")
  done = world.run(workdir)
  assert done.status == 1, done
  assert f"{full} cannot be written (No space left on device)" in done.error, done.error
  full.unlink()
  if name == "metrics.jsonl":
    shutil.copy(world.interrupted / name, full)
  return {"steps_lost": lost_after(world, workdir), "on": _STAND_IN}


def read_only_disk(world: World, chance: random.Random) -> dict[str, float | str]:
  """Starts a run, or goes on with one, where nothing can be written; then makes the place writable."""
  assert world.whole
  resumes = chance.random() < 0.5
  with volume(50_000_000) as given:
    if given is not None:
      place, process = given
      refuse, allow = (lambda: remount(process, "ro")), (lambda: remount(process, "rw"))
    else:
      place = world.new_folder()
      place.mkdir()
      refuse, allow = (lambda: _chmod(place, 0o555)), (lambda: _chmod(place, 0o755))
    workdir = place / "run"
    if resumes:
      shutil.copytree(world.interrupted, workdir)
    refuse()
    start = time.monotonic()
    done = world.run(workdir)
    seconds = time.monotonic() - start
    assert done.status == 2, done
    assert "cannot be written to; make it writable or choose another --workdir" in done.error
    allow()
    on = _STAND_IN if given is None else _REAL
    return {"steps_lost": lost_after(world, workdir), "seconds": seconds, "on": on}


def _chmod(place: Path, mode: int) -> None:
  assert os.geteuid(), "as root, nothing is read-only but a file system: this needs one of its own (unshare)"
  for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
    folder.chmod(mode)


def two_runs_in_a_folder(world: World, chance: random.Random) -> dict[str, float | str]:
  """Starts the same run a second time while it is on, or both at once; one of them is refused."""
  assert world.whole
  while True:
    workdir = world.new_folder()
    at = chance.choice([0, 0, 1, 10, 20])
    first = world.start(workdir)
    with ending([first]):
      if at:
        wait_for_step(workdir, at, first)
      second = world.run(workdir)
      ended = sorted((finish(first), second), key=lambda each: each.status)
    assert ended[0].status == 0, ended
    if ended[1].status == 0:  # it came when the other had finished: there were no two
      continue
    assert ended[1].status == 2, ended
    assert "is running in this folder" in ended[1].error
    assert saved_steps(workdir)
    return {"steps_lost": lost_after(world, workdir)}
