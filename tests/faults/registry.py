"""The faults, by the names that the table has."""

import random
from collections.abc import Callable

from tests.faults import damage, disks, kills, pairs, times
from tests.faults.world import World

Fault = Callable[[World, random.Random], dict[str, float]]

# Each puts itself into a run, restarts it, and returns what was lost; it raises AssertionError where the run does not
# end as one that nothing disturbed.
FAULTS: dict[str, Fault] = {
  "killed (-9) at any moment": kills.killed_any_time,
  "killed (-9) between two operations on files": kills.killed_at_file_operation,
  "killed (-9) during a checkpoint write": kills.killed_in_checkpoint,
  "one of two processes killed (-9)": pairs.killed_one_of_two,
  "SIGTERM with a grace of 30 s": kills.told_to_stop,
  "newest checkpoint truncated": damage.truncated_checkpoint,
  "newest checkpoint with a flipped bit": damage.flipped_byte_in_checkpoint,
  "disk full": disks.full_disk,
  "a write refused as by a full disk": disks.full_file,
  "read-only workdir": disks.read_only_disk,
  "two runs started in one workdir": disks.two_runs_in_a_folder,
  "clock going back by an hour": times.clock_going_back,
  "loss not a number": times.loss_not_a_number,
  "cache of the data with a flipped bit": damage.damaged_cache_of_data,
  "data changed after prepare": damage.changed_data,
}
