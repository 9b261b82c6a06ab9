"""Faults of damaged files: the newest checkpoint, or the data."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.harness import Harness, assert_same_run, restart_and_compare, resumed_from

_NEWEST, _BEFORE = 17, 15  # checkpoints of `Harness.interrupted`
BETWEEN = _NEWEST - _BEFORE


def truncated_checkpoint(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Truncates a file of the newest checkpoint."""
  return _damage_checkpoint(harness, rng, lambda content: content[: rng.randrange(len(content))])


def flipped_bit_in_checkpoint(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Flips one bit of the newest checkpoint."""
  return _damage_checkpoint(harness, rng, lambda content: _with_flipped_bit(content, rng))


def _damage_checkpoint(
  harness: Harness, rng: random.Random, change: Callable[[bytes], bytes]
) -> dict[str, float | str]:
  """Changes a file of the newest checkpoint, which the restarted run has to use correctly or to skip."""
  workdir = harness.new_folder()
  shutil.copytree(harness.interrupted, workdir)
  newest = workdir / "checkpoints" / str(_NEWEST)
  files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
  # Damage to files that orbax writes but does not read has no effect.
  file = rng.choices(files, [path.stat().st_size + 200 for path in files])[0]
  file.write_bytes(change(file.read_bytes()))
  done = harness.restart(workdir)
  assert_same_run(harness.undisturbed, workdir)
  resumed = resumed_from(done)
  assert resumed in (_NEWEST, _BEFORE), (file, resumed)
  if resumed == _BEFORE:
    assert "warning: checkpoint" in done.out, (file, done.out)
  return {"steps_lost": _NEWEST - resumed}


def _with_flipped_bit(content: bytes, rng: random.Random) -> bytes:
  position = rng.randrange(len(content))
  return content[:position] + bytes([content[position] ^ (1 << rng.randrange(8))]) + content[position + 1 :]


def damaged_cache_of_data(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Flips one bit in the cache of decoded images between the stop and the restart of a run."""
  workdir, data = _copy_run_and_data(harness)
  (image,) = data.rglob("image.npy")
  image.write_bytes(_with_flipped_bit(image.read_bytes(), rng))
  return {"steps_lost": restart_and_compare(harness, workdir, environment={"TFDS_DATA_DIR": str(data)})}


def changed_data(harness: Harness, rng: random.Random) -> dict[str, float | str]:
  """Prepares other data, or flips a bit of a shard without a cache, between the stop and the restart of a run."""
  assert harness.undisturbed
  while True:
    workdir, data = _copy_run_and_data(harness)
    environment = {"TFDS_DATA_DIR": str(data)}
    if other := rng.random() < 0.5:
      shutil.rmtree(data)
      shutil.copytree(_other_data(harness), data)
    else:
      (arrays,) = data.rglob("arrays")
      shutil.rmtree(arrays)
      shard = rng.choice(sorted(data.rglob("*.array_record*")))
      shard.write_bytes(_with_flipped_bit(shard.read_bytes(), rng))
    done = harness.run(workdir, environment=environment)
    if done.status == 0 and not other:  # a bit that belongs to no record has no effect
      assert_same_run(harness.undisturbed, workdir)
      continue
    assert done.status == 2, done
    assert "fer2013 has changed" in done.error or "damaged" in done.error, done.error
    shutil.rmtree(data)
    shutil.copytree(harness.data, data)
    return {"steps_lost": restart_and_compare(harness, workdir, environment=environment)}


def _copy_run_and_data(harness: Harness) -> tuple[Path, Path]:
  """Returns copies of the folder of a stopped run and of its data."""
  workdir, data = harness.new_folder(), harness.new_folder()
  shutil.copytree(harness.interrupted, workdir)
  shutil.copytree(harness.data, data)
  return workdir, data


def _other_data(harness: Harness) -> Path:
  return harness.shared("other_data", lambda folder: harness.prepare(folder, seed=1))
