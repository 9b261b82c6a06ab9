"""Trains replicas together, from their first step to their results on disk."""

import contextlib
from collections.abc import Sequence

from fer_jax.runtime.interruption import Signals
from fer_jax.training import results
from fer_jax.training.checkpoint import Checkpoints
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.loop import TrainingLoop
from fer_jax.training.phases import Phase
from fer_jax.training.replica_state import ReplicaState
from fer_jax.training.replicas import Replica
from fer_jax.training.run import Run
from fer_jax.training.run_log import Console, RunLog, Stopwatch
from fer_jax.training.run_result import RunResult
from fer_jax.training.workdir import Workdir


def train_group(
  run: Run,
  compiled: CompiledRun,
  phases: Sequence[Phase],
  group: Sequence[Replica],
  folders: Sequence[Workdir],
  watch: Stopwatch,
  console: Console,
  signals: Signals,
  deadlines: Sequence[float] = (),
) -> list[RunResult]:
  """Trains replicas together, from their first step to their results on disk.

  Args:
    run: Run that the replicas belong to.
    compiled: Compiled run whose placement is for this number of replicas.
    phases: Phases, possibly with fewer steps than planned because of the time budget.
    group: Replicas to train.
    folders: Run folder of each replica.
    watch: Stopwatch of the group.
    console: Console for progress lines.
    signals: Signal handler that requests a stop.
    deadlines: Seconds on `watch` at which each phase ends at the latest; empty without a time budget.

  Returns:
    Results of the replicas, in the order of `group`.
  """
  with contextlib.ExitStack() as stack:
    replicas = []
    for each, folder in zip(group, folders, strict=True):
      log = stack.enter_context(RunLog(folder.path, watch, silent=not folder.writes))
      checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints"))
      replicas.append(ReplicaState(each, folder, log, checkpoints, compiled, console))
      stack.callback(replicas[-1].iterator.close)
      if [phase.steps for phase in phases] != [phase.steps for phase in run.phases]:
        replicas[-1].stopped = "time budget"
    loop = TrainingLoop(
      compiled,
      run.initialization,
      phases,
      run.plan.epoch_rows,
      replicas,
      watch,
      console,
      signals,
      deadlines,
    )
    loop.train()
    found = []
    for replica, final in zip(replicas, loop.evaluate_best(), strict=True):
      evaluations = results.by_protocol(replica, final)
      results.write_predictions(replica, evaluations, run.settings, run.plan.image_id)
      found.append(results.of_replica(run, loop, replica, evaluations, final))
    # All results are computed before the first one is written: a failure leaves the whole group unfinished.
    for replica, result in zip(replicas, found, strict=True):
      replica.folder.write_json("result.json", result.to_json())
  return found
