"""The replicas of a run, its folds or its seeds, for their table on the page."""

from typing import NamedTuple

from fer_jax.training.run_files import RunFiles, mapping
from fer_jax.training.run_result import ReplicaResult

# By the unit that is not split between folds.
_SPLITS = {
  "images": "The folds are split by image: a person, and frames of a sequence, may be in both training and test.",
  "groups": "The folds are split by group: the frames of a sequence, and equal images, are in the same fold, but a "
  "person may be in both training and test.",
  "subjects": "The folds are split by subject: no person is in both training and test.",
  "one_subject_out": "Leave-one-subject-out: each fold tests on one person and trains on all others.",
  "file": "The folds are read from a file.",
}
SHARED = (
  "The training sets of the folds overlap, so the interval over folds is too narrow (Bengio & Grandvalet 2004, JMLR 5)."
)
_SEEDS = (
  "The replicas differ only in their seed, and all are tested on the same images. The 95 % interval is Student's "
  "t over the replicas: it measures how much they differ from one another."
)


class Replica(NamedTuple):
  """A replica of a run: the name of its folder, its seed, the steps taken, and its result once it has finished."""

  name: str
  seed: int | None
  steps: float | None
  result: ReplicaResult | None


def replica_name(folder: str) -> str:
  """Returns the name of a replica for readers: "fold 3" for the folder "fold_3"."""
  return folder.replace("_", " ")


def lead(run: RunFiles) -> str:
  """Returns the text above the table: what the replicas of a run differ in, and what their interval means."""
  by = run.result.folds.by if run.result and run.result.folds else mapping(run.settings.get("folds")).get("by")
  return f"{_SPLITS[by]} The 95 % interval is Student's t over the folds. {SHARED}" if by else _SEEDS


def replicas_of(run: RunFiles) -> list[Replica]:
  """Returns the replicas of a run, those of its result or else those that have started; empty for a single replica."""
  listed = run.result.runs if run.result else ()
  if len(listed) > 1 or (listed and run.replicas):
    return [Replica(each.name or "", each.seed, each.steps, each) for each in listed]
  results = [replica.result.as_replica(replica.name) if replica.result else None for replica in run.replicas]
  return [
    Replica(replica.name, replica.settings.get("seed"), result.steps if result else replica.last_step, result)
    for replica, result in zip(run.replicas, results, strict=True)
  ]
