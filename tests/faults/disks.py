"""Faults of the disk: full, read-only, or a workdir used by another run."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.harness import Harness, finish, killing_at_exit, restart_and_compare, saved_steps, wait_for_step

# Approximate disk usage of a run of the harness.
_RUN_BYTES = 900_000
# Where a fault was injected, for the table.
_REAL, _SIMULATED = "a file system of its own", "files or folders that refuse"


@contextlib.contextmanager
def volume(size: int) -> Iterator[tuple[Path, "subprocess.Popen[str]"] | None]:
  """Mounts a file system of `size` bytes in its own namespace.

  Yields:
    Its folder, and a process that remounts it with the options written to its standard input; None if the system does
    not allow unprivileged mounts.
  """
  mount_point = "/mnt"
  script = (
    f"mount -t tmpfs -o size={size} none {mount_point} && echo ready && "
    f'while read -r options; do mount -o "remount,$options" {mount_point} && echo done; done'
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
    yield (Path(f"/proc/{process.pid}/root{mount_point}"), process) if ready else None
    process.stdin.close()


def remount(process: "subprocess.Popen[str]", options: str) -> None:
  """Remounts a volume with other options."""
  assert process.stdin and process.stdout
  process.stdin.write(f"{options}\n")
  process.stdin.flush()
  assert process.stdout.readline().strip() == "done"


def full_disk(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Lets the disk become full at a random time of a run, and then frees space."""
  assert harness.undisturbed
  while True:
    with volume(rng.randrange(8_000, _RUN_BYTES)) as mounted:
      if mounted is None:
        return full_file(harness, rng)
      folder, process = mounted
      done = harness.run(folder / "run")
      if done.status == 0:  # the size of a run varies slightly, and this disk was large enough
        continue
      assert done.status in (1, 2), done
      assert "No space left" in done.error or "RESOURCE_EXHAUSTED" in done.error, done.error
      remount(process, "size=100m")
      return {"steps_lost": restart_and_compare(harness, folder / "run"), "on": _REAL}


def full_file(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Makes writes to one file fail, or limits the size of every file, like a full disk; then removes the limit."""
  assert harness.undisturbed
  workdir = harness.new_folder()
  name = rng.choice(["config.json.part", "metrics.jsonl", "predictions.npz.part", "result.json.part", ""])
  if not name:
    done = harness.run(workdir, fault={"file_size": rng.choice([2000, 4000, 8000])})
    assert done.status == 1, done
    assert "cannot be written" in done.error, done.error
    return {"steps_lost": restart_and_compare(harness, workdir), "on": _SIMULATED}
  workdir.mkdir()
  full = workdir / name
  if name != "config.json.part":
    shutil.copytree(harness.interrupted, workdir, dirs_exist_ok=True)
    full.unlink(missing_ok=True)
  full.symlink_to("/dev/full")
  done = harness.run(workdir)
  assert done.status == 1, done
  assert f"{full} cannot be written (No space left on device)" in done.error, done.error
  full.unlink()
  if name == "metrics.jsonl":
    shutil.copy(harness.interrupted / name, full)
  return {"steps_lost": restart_and_compare(harness, workdir), "on": _SIMULATED}


def read_only_disk(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Starts or resumes a run in a read-only folder, and then makes it writable."""
  assert harness.undisturbed
  resumes = rng.random() < 0.5
  with volume(50_000_000) as mounted:
    if mounted is not None:
      folder, process = mounted
      protect, release = (lambda: remount(process, "ro")), (lambda: remount(process, "rw"))
    else:
      folder = harness.new_folder()
      folder.mkdir()
      protect, release = (lambda: _chmod(folder, 0o555)), (lambda: _chmod(folder, 0o755))
    workdir = folder / "run"
    if resumes:
      shutil.copytree(harness.interrupted, workdir)
    protect()
    start = time.monotonic()
    done = harness.run(workdir)
    seconds = time.monotonic() - start
    assert done.status == 2, done
    assert "cannot be written to; make it writable or choose another --workdir" in done.error
    release()
    on = _SIMULATED if mounted is None else _REAL
    return {"steps_lost": restart_and_compare(harness, workdir), "seconds": seconds, "on": on}


def _chmod(folder: Path, mode: int) -> None:
  assert os.geteuid(), "root can write to read-only folders: this needs a mounted file system (unshare)"
  for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
    each.chmod(mode)


def two_runs_in_a_folder(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Starts the same run twice, at once or while the first is running; one of them is rejected."""
  assert harness.undisturbed
  while True:
    workdir = harness.new_folder()
    at = rng.choice([0, 0, 1, 10, 20])
    first = harness.start(workdir)
    with killing_at_exit([first]):
      if at:
        wait_for_step(workdir, at, first)
      second = harness.run(workdir)
      ended = sorted((finish(first), second), key=lambda each: each.status)
    assert ended[0].status == 0, ended
    if ended[1].status == 0:  # the second started after the first had finished
      continue
    assert ended[1].status == 2, ended
    assert "is running in this folder" in ended[1].error
    assert saved_steps(workdir)
    return {"steps_lost": restart_and_compare(harness, workdir)}
