"""The faults, by the names that the table has."""

import dataclasses
import random
from collections.abc import Callable

from tests.faults import damage, disks, kills, pairs, times
from tests.faults.world import CHECKPOINT_EVERY, World

# A checkpoint is written while the next steps are taken, and is complete when the next one begins at the latest.
_TWO_CHECKPOINTS = 2 * CHECKPOINT_EVERY


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault that is put into a run, which is then started again.

  Attributes:
    put: does both and returns what was found: "steps_lost", "seconds" to the end where they are measured, "on" what
      it was put; raises AssertionError where the run does not end as one that nothing disturbed.
    bound: on the steps that may be lost.
    waits: whether most of a trial is waiting, so that more of them than there are cores can go on at a time.
  """

  put: Callable[[World, random.Random], dict[str, float | str]]
  bound: int
  waits: bool = False


FAULTS = {
  "killed (-9) at any moment, imports included": Fault(kills.killed_any_time, _TWO_CHECKPOINTS),
  "killed (-9) before an operation on a file that is no checkpoint's": Fault(
    kills.killed_at_file_operation, _TWO_CHECKPOINTS
  ),
  "killed (-9) within a checkpoint write": Fault(kills.killed_in_checkpoint, _TWO_CHECKPOINTS),
  "killed (-9) while an older checkpoint is removed": Fault(kills.killed_in_removal, _TWO_CHECKPOINTS),
  "one of two processes killed (-9), in any phase": Fault(pairs.killed_one_of_two, _TWO_CHECKPOINTS, waits=True),
  "SIGTERM, before the first step or after any": Fault(kills.told_to_stop, 0),
  "newest checkpoint: a file cut short": Fault(damage.truncated_checkpoint, damage.BETWEEN),
  "newest checkpoint: a bit flipped": Fault(damage.flipped_byte_in_checkpoint, damage.BETWEEN),
  "disk full at any moment": Fault(disks.full_disk, _TWO_CHECKPOINTS),
  "one file refused as by a full disk, or each limited in size": Fault(disks.full_file, _TWO_CHECKPOINTS),
  "read-only disk at the start, or at a restart": Fault(disks.read_only_disk, 0),
  "two runs started in one workdir": Fault(disks.two_runs_in_a_folder, 0),
  "wall clock back by an hour in a run and before its restart": Fault(times.clock_going_back, 0),
  "parameters not a number after any step": Fault(times.loss_not_a_number, _TWO_CHECKPOINTS),
  "cache of the data: a bit flipped": Fault(damage.damaged_cache_of_data, 0),
  "other data prepared, or a shard with a bit flipped": Fault(damage.changed_data, 0),
}
