"""Files that are not what was written: a newest checkpoint, or the data."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.world import World, lost_after, resumed_from, same_run

_NEWEST, _BEFORE = 17, 15  # checkpoints of `World.interrupted`
BETWEEN = _NEWEST - _BEFORE


def truncated_checkpoint(world: World, chance: random.Random) -> dict[str, float | str]:
  """Cuts a file of the newest checkpoint short."""
  return _damaged(world, chance, lambda content: content[: chance.randrange(len(content))])


def flipped_byte_in_checkpoint(world: World, chance: random.Random) -> dict[str, float | str]:
  """Changes one byte of the newest checkpoint."""
  return _damaged(world, chance, lambda content: _flipped(content, chance))


def _damaged(world: World, chance: random.Random, change: Callable[[bytes], bytes]) -> dict[str, float | str]:
  workdir = world.new_folder()
  shutil.copytree(world.interrupted, workdir)
  newest = workdir / "checkpoints" / str(_NEWEST)
  files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
  # Files that orbax writes for its own records and does not need may be damaged without harm.
  file = chance.choices(files, [path.stat().st_size + 200 for path in files])[0]
  file.write_bytes(change(file.read_bytes()))
  done = world.restart(workdir)
  same_run(world.whole, workdir)
  began = resumed_from(done)
  assert began in (_NEWEST, _BEFORE), (file, began)
  if began == _BEFORE:
    assert "warning: checkpoint" in done.out, (file, done.out)
  return {"steps_lost": _NEWEST - began}


def _flipped(content: bytes, chance: random.Random) -> bytes:
  place = chance.randrange(len(content))
  return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def damaged_cache_of_data(world: World, chance: random.Random) -> dict[str, float | str]:
  """Changes one byte of the decoded images beside the dataset, between a run's stop and its restart."""
  workdir, data = _with_own_data(world)
  (image,) = data.rglob("image.npy")
  image.write_bytes(_flipped(image.read_bytes(), chance))
  return {"steps_lost": lost_after(world, workdir, environment={"TFDS_DATA_DIR": str(data)})}


def changed_data(world: World, chance: random.Random) -> dict[str, float | str]:
  """Prepares other data, or changes a bit of a shard without a cache, between a run's stop and its restart."""
  assert world.whole
  while True:
    workdir, data = _with_own_data(world)
    environment = {"TFDS_DATA_DIR": str(data)}
    if other := chance.random() < 0.5:
      shutil.rmtree(data)
      shutil.copytree(_other_data(world), data)
    else:
      (arrays,) = data.rglob("arrays")
      shutil.rmtree(arrays)
      shard = chance.choice(sorted(data.rglob("*.array_record*")))
      shard.write_bytes(_flipped(shard.read_bytes(), chance))
    done = world.run(workdir, environment=environment)
    if done.status == 0 and not other:  # a bit that no record uses changes nothing
      same_run(world.whole, workdir)
      continue
    assert done.status == 2, done
    assert "fer2013 has changed" in done.error or "damaged" in done.error, done.error
    shutil.rmtree(data)
    shutil.copytree(world.data, data)
    return {"steps_lost": lost_after(world, workdir, environment=environment)}


def _with_own_data(world: World) -> tuple[Path, Path]:
  """Returns the folders of a stopped run and of data that may be changed."""
  workdir, data = world.new_folder(), world.new_folder()
  shutil.copytree(world.interrupted, workdir)
  shutil.copytree(world.data, data)
  return workdir, data


def _other_data(world: World) -> Path:
  return world.made("other_data", lambda folder: world.prepare(folder, seed=1))
