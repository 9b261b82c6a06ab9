"""A network, its phases and its data on a placement, ready to take steps: compiled once for all trainings on it."""

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.data.audit import number_pictures
from fer_jax.evaluate import Evaluation, evaluate
from fer_jax.initialization import Initialization
from fer_jax.models.network import Tree
from fer_jax.parallel import Placement
from fer_jax.phases import Phase, plan
from fer_jax.programs import KeptProgram, return_memory
from fer_jax.replicas import Replica
from fer_jax.settings import CLOCKS, Settings
from fer_jax.step import Moment, Resident, TrainState, make_eval_step

_RESIDENT_BYTES = 2 * 1024**3  # a dataset up to this size lives on the device
_TRIAL_STEPS = 3


class Rig:
  """What trainings need to take steps on a placement, compiled once for all of them.

  Args:
    settings: of the run.
    beginning: the network, and what its layers start from.
    placement: of the trainings.
    arrays: the dataset, however it is divided.
    epoch_rows: training rows that count as an epoch.
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
  def picture(self) -> np.ndarray:
    """The number of each example's picture, int32 [N], as `number_pictures` has it, however the dataset is divided."""
    return number_pictures(self._arrays)

  def batches(self, replica: Replica) -> pipeline.ShuffledBatches:
    """Returns the endless stream of a training's batches."""
    return pipeline.ShuffledBatches(
      replica.arrays,
      "train",
      self.settings.batch_size,
      replica.seed,
      host=self.host,
      process=self.placement.process,
    )

  def begin(self, replicas: Sequence[Replica]) -> Any:
    """Returns the trainings' state of step 0, placed."""
    first = self.phases[0]

    def begin(params: Tree, stats: Tree) -> TrainState:
      return first.begin(0, params, stats)

    program = KeptProgram(begin, f"state of step 0, {first.identity}", jax.default_backend())
    drawn = self.beginning.variables([each.seed for each in replicas])
    state = self.placement.place([program(*variables) for variables in drawn])
    return_memory()  # of the program that drew them, and of the trainings before these
    return state

  def step(self, phase: Phase, state: Any, batches: Sequence[Any], moments: Sequence[Moment]) -> Any:
    """Takes a step of every training; returns the new state and the metrics."""
    return phase.step(*self.arguments(state, batches, moments))

  def arguments(self, state: Any, batches: Sequence[Any], moments: Sequence[Moment]) -> tuple[Any, ...]:
    """Returns what a step is called with."""
    return state, self.resident, self.placement.deal(batches), self.placement.stack(moments)

  def evaluate(self, variables: Any, replicas: Sequence[Replica], split: str, view: int = 0) -> list[Evaluation]:
    """Evaluates every training on its own split, in one of the views; the variables are placed."""
    size = self._evaluated_at_once(replicas)
    rows = [len(each.arrays.rows(split)) for each in replicas]
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
    """Returns the rows of a batch in evaluation: no more than the splits have, up to a power of 2.

    So that folds of 21, 22 and 23 rows share a program, and none of them computes 256.
    """
    most = max(len(each.arrays.rows(split)) for each in replicas for split in ("validation", "test"))
    parts = 1 if self.placement.axis_name is None else len(self.placement.devices)
    return min(self.settings.eval_batch_size, -(-(1 << max(most - 1, 0).bit_length()) // parts) * parts)


class Trial:
  """The first steps of some trainings, to learn what they take; nothing of it is kept.

  Args:
    rig: with a placement of so many trainings.
    replicas: as many.
  """

  def __init__(self, rig: Rig, replicas: Sequence[Replica]):
    self._rig, self._moments = rig, [Moment(np.float32(0), np.int32(each.seed)) for each in replicas]
    self._state = rig.begin(replicas)
    self._batches = [rig.batches(each)[0] for each in replicas]

  def memory(self) -> int:
    """Compiles the first phase's step; returns the bytes that it takes on a device, 0 where that is not known."""
    rig = self._rig
    return rig.phases[0].step.prepare(*rig.arguments(self._state, self._batches, self._moments))  # type: ignore[attr-defined]

  def seconds(self) -> float:
    """Takes a few steps; returns the median seconds of one."""
    taken, now = [], CLOCKS[self._rig.settings.clock]
    for _ in range(1 + _TRIAL_STEPS):
      start = now()
      self._state, _ = self._rig.step(self._rig.phases[0], self._state, self._batches, self._moments)
      jax.block_until_ready(self._state)
      taken.append(now() - start)
    return statistics.median(taken[1:])


def _stays_on_host(settings: Settings, arrays: Arrays) -> bool:
  if arrays.streamed:
    return True
  if settings.data.residence == "auto":
    return arrays.image.nbytes > _RESIDENT_BYTES
  return settings.data.residence == "host"
