"""All faults, by their names in the table."""

import dataclasses
import random
from collections.abc import Callable

from tests.faults import clock_and_nan, damage, disks, kills, two_processes
from tests.faults.harness import CHECKPOINT_EVERY, Harness

# A checkpoint is written during the following steps, and is complete at the latest when the next one is started.
_TWO_CHECKPOINTS = 2 * CHECKPOINT_EVERY


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault that is injected into a run, which is then restarted.

  Attributes:
    inject: Function that injects the fault, restarts the run and returns "steps_lost"; also "seconds" until the run
      ended and "on", the location of the fault, if they are known. Raises AssertionError if the result differs from
      that of an undisturbed run.
    bound: Maximum number of steps that may be lost.
    waits: Whether a trial mostly waits, so that more trials than cores can run concurrently.
  """

  inject: Callable[[Harness, random.Random], dict[str, float | str]]
  bound: int
  waits: bool = False


FAULTS = {
  "killed (-9) at any moment, imports included": Fault(kills.killed_any_time, _TWO_CHECKPOINTS),
  "killed (-9) before an operation on a file that is no checkpoint's": Fault(
    kills.killed_at_file_operation, _TWO_CHECKPOINTS
  ),
  "killed (-9) within a checkpoint write": Fault(kills.killed_in_checkpoint, _TWO_CHECKPOINTS),
  "killed (-9) while an older checkpoint is removed": Fault(kills.killed_in_removal, _TWO_CHECKPOINTS),
  "one of two processes killed (-9), in any phase": Fault(
    two_processes.killed_one_of_two, _TWO_CHECKPOINTS, waits=True
  ),
  "SIGTERM, before the first step or after any": Fault(kills.terminated, 0),
  "newest checkpoint: a file cut short": Fault(damage.truncated_checkpoint, damage.BETWEEN),
  "newest checkpoint: a bit flipped": Fault(damage.flipped_bit_in_checkpoint, damage.BETWEEN),
  "disk full at any moment": Fault(disks.full_disk, _TWO_CHECKPOINTS),
  "one file refused as by a full disk, or each limited in size": Fault(disks.full_file, _TWO_CHECKPOINTS),
  "read-only disk at the start, or at a restart": Fault(disks.read_only_disk, 0),
  "two runs started in one workdir": Fault(disks.two_runs_in_a_folder, 0),
  "wall clock back by an hour in a run and before its restart": Fault(clock_and_nan.clock_going_back, 0),
  "parameters not a number after any step": Fault(clock_and_nan.parameters_nan, _TWO_CHECKPOINTS),
  "cache of the data: a bit flipped": Fault(damage.damaged_cache_of_data, 0),
  "other data prepared, or a shard with a bit flipped": Fault(damage.changed_data, 0),
}
