"""A network, its phases and its data on a placement, compiled once for all replicas."""

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.config.settings import CLOCKS, Settings
from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.duplicates import image_ids
from fer_jax.models.network import Tree
from fer_jax.runtime.parallel import Placement
from fer_jax.runtime.programs import CachedProgram, return_memory
from fer_jax.training.evaluate import Evaluation, evaluate
from fer_jax.training.initialization import Initialization
from fer_jax.training.phases import Phase, plan
from fer_jax.training.replicas import Replica
from fer_jax.training.step import Resident, StepContext, TrainState, make_eval_step

_RESIDENT_BYTES = 2 * 1024**3  # maximum size of a dataset that residence "auto" keeps in device memory
_TRIAL_STEPS = 3  # timed steps, after one that is not timed


class Rig:
  """The compiled training and evaluation steps of a run and the data on the devices, shared by all replicas.

  Args:
    settings: Settings of the run.
    beginning: Network and its initial variables.
    placement: Placement of the replicas on the devices.
    arrays: Dataset; its splits are not used.
    epoch_rows: Number of training rows in an epoch.
  """

  def __init__(
    self, settings: Settings, beginning: Initialization, placement: Placement, arrays: Arrays, epoch_rows: int
  ):
    self.settings, self.beginning, self.placement, self.epoch_rows = settings, beginning, placement, epoch_rows
    self.network = beginning.network
    self.phases = plan(settings, self.network, placement, epoch_rows)
    eval_step = make_eval_step(self.network, placement.axis_name, margin=settings.view_margin)
    identity = f"evaluation {(settings.model, settings.precision, settings.view_margin)}"
    self.eval_step = placement.compile_eval(eval_step, identity)
    self.host = _stays_on_host(settings, arrays)
    self._arrays = arrays
    self.resident = Resident()
    if not self.host:
      self.resident = placement.replicate(Resident(np.asarray(arrays.image), pipeline.targets(arrays)))

  @functools.cached_property
  def image_id(self) -> np.ndarray:
    """Number of each example's distinct image, int32 [N], from `image_ids`; the splits have no effect."""
    return image_ids(self._arrays)

  def batches(self, replica: Replica) -> pipeline.ShuffledBatches:
    """Returns the infinite stream of training batches of a replica."""
    return pipeline.ShuffledBatches(
      replica.arrays,
      "train",
      self.settings.batch_size,
      replica.seed,
      host=self.host,
      process=self.placement.process,
    )

  def begin(self, replicas: Sequence[Replica]) -> Any:
    """Returns the initial training states of the replicas, on the devices."""
    first = self.phases[0]

    def begin(params: Tree, stats: Tree) -> TrainState:
      return first.begin(0, params, stats)

    program = CachedProgram(begin, f"state of step 0, {first.identity}", jax.default_backend())
    drawn = self.beginning.variables([each.seed for each in replicas])
    state = self.placement.place([program(*variables) for variables in drawn])
    return_memory()  # of the initialisation program and of earlier replicas
    return state

  def step(self, phase: Phase, state: Any, batches: Sequence[Any], moments: Sequence[StepContext]) -> Any:
    """Runs one step of every replica; returns the new state and the metrics."""
    return phase.step(*self.arguments(state, batches, moments))

  def arguments(self, state: Any, batches: Sequence[Any], moments: Sequence[StepContext]) -> tuple[Any, ...]:
    """Returns the arguments of a compiled step: state, resident dataset, batches and moments, on the devices."""
    return state, self.resident, self.placement.deal(batches), self.placement.stack(moments)

  def evaluate(self, variables: Any, replicas: Sequence[Replica], split: str, view: int = 0) -> list[Evaluation]:
    """Evaluates every replica on its own split.

    Args:
      variables: The (params, stats) of all replicas, on the devices.
      replicas: Replicas of the placement.
      split: Name of the split.
      view: Number of the test-time augmentation view; 0 for the unchanged images.
    """
    size = self._evaluated_at_once(replicas)
    rows = [len(each.arrays.rows(split)) for each in replicas]
    # The same number of batches for all replicas: shorter splits get masked ones.
    batches = [
      pipeline.evaluation_batches(
        each.arrays,
        split,
        size,
        host=self.host,
        batches=math.ceil(max(rows) / size),
        view=view,
        process=self.placement.process,
      )
      for each in replicas
    ]
    return evaluate(self.eval_step, self.placement, variables, self.resident, batches, rows)

  def _evaluated_at_once(self, replicas: Sequence[Replica]) -> int:
    """Returns the batch size in evaluation: the size of the largest split, rounded up to a power of 2, or less.

    The maximum is `eval_batch_size`. Rounding makes folds of 21, 22 and 23 rows share one compiled program, which
    computes 32 rows and not 256.
    """
    most = max(len(each.arrays.rows(split)) for each in replicas for split in ("validation", "test"))
    parts = 1 if self.placement.axis_name is None else len(self.placement.devices)
    # Next power of 2 of `most`, rounded up to a multiple of the number of devices.
    return min(self.settings.eval_batch_size, -(-(1 << max(most - 1, 0).bit_length()) // parts) * parts)


class Trial:
  """Measurement of the memory and time of a step of several replicas; the computed states are discarded.

  Args:
    rig: Rig whose placement is for this number of replicas.
    replicas: Replicas to measure.
  """

  def __init__(self, rig: Rig, replicas: Sequence[Replica]):
    self._rig, self._moments = rig, [StepContext(np.float32(0), np.int32(each.seed)) for each in replicas]
    self._state = rig.begin(replicas)
    self._batches = [rig.batches(each)[0] for each in replicas]

  def memory(self) -> int:
    """Compiles the step of the first phase; returns its memory on a device in bytes, 0 if XLA does not report it."""
    rig = self._rig
    return rig.phases[0].step.prepare(*rig.arguments(self._state, self._batches, self._moments))  # type: ignore[attr-defined]

  def seconds(self) -> float:
    """Runs a few steps; returns the median time of a step in seconds."""
    taken, now = [], CLOCKS[self._rig.settings.clock]
    for _ in range(1 + _TRIAL_STEPS):
      start = now()
      self._state, _ = self._rig.step(self._rig.phases[0], self._state, self._batches, self._moments)
      jax.block_until_ready(self._state)
      taken.append(now() - start)
    # The first step may include compilation and transfers.
    return statistics.median(taken[1:])


def _stays_on_host(settings: Settings, arrays: Arrays) -> bool:
  if arrays.streamed:
    return True
  if settings.data.residence == "auto":
    return arrays.image.nbytes > _RESIDENT_BYTES
  return settings.data.residence == "host"
