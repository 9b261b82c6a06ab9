"""The compiled steps of a run and its data on the devices, shared by all replicas that train together."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.config.settings import Settings
from fer_jax.data import pipeline
from fer_jax.data.arrays import Arrays
from fer_jax.models.network import Tree
from fer_jax.runtime.parallel import Placement
from fer_jax.runtime.programs import CachedProgram, release_memory
from fer_jax.training.evaluate import Evaluation, evaluate
from fer_jax.training.initialization import Initialization
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Replica
from fer_jax.training.step import Resident, StepContext, TrainState, make_eval_step

_RESIDENT_BYTES = 2 * 1024**3  # maximum size of a dataset that residence "auto" keeps in device memory


class CompiledRun:
  """The compiled training and evaluation steps of a run on a placement, and the data on the devices.

  Args:
    settings: Settings of the run.
    initialization: Network and its initial variables.
    phases: Phases of the run.
    placement: Placement of the replicas on the devices.
    arrays: Dataset; its splits are not used.
  """

  def __init__(
    self,
    settings: Settings,
    initialization: Initialization,
    phases: Sequence[Phase],
    placement: Placement,
    arrays: Arrays,
  ):
    self.settings, self.placement = settings, placement
    self._initialization = initialization
    # By identity: phases with equal steps share a program.
    self.train_steps = {
      phase.identity: placement.compile_train(phase.train_step, f"training {phase.identity}") for phase in phases
    }
    eval_step = make_eval_step(initialization.network, placement.axis_name, margin=settings.view_margin)
    identity = f"evaluation {(settings.model, settings.precision, settings.view_margin)}"
    self.eval_step = placement.compile_eval(eval_step, identity)
    self.host = _stays_on_host(settings, arrays)
    self.resident = Resident()
    if not self.host:
      self.resident = placement.replicate(Resident(np.asarray(arrays.image), pipeline.targets(arrays)))

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

  def initial_state(self, phase: Phase, replicas: Sequence[Replica]) -> Any:
    """Returns the training states of the replicas at step 0, on the devices.

    Args:
      phase: First phase of the run.
      replicas: Replicas of the placement.
    """

    def initial_state(params: Tree, stats: Tree) -> TrainState:
      return phase.initial_state(0, params, stats)

    program = CachedProgram(initial_state, f"state of step 0, {phase.identity}", jax.default_backend())
    variables = self._initialization.variables([each.seed for each in replicas])
    state = self.placement.put_states([program(*of_replica) for of_replica in variables])
    release_memory()  # of the initialisation program and of earlier replicas
    return state

  def prepare(self, phase: Phase, *arguments: Any) -> int:
    """Compiles the training step of a phase for the arguments of `train_step`.

    Returns:
      Memory of the step on a device in bytes, 0 if XLA does not report it.
    """
    program: Any = self.train_steps[phase.identity]  # of a single device or of `Replicas`: it has `prepare`
    return program.prepare(*self._on_devices(*arguments))

  def train_step(self, phase: Phase, state: Any, batches: Sequence[Any], contexts: Sequence[StepContext]) -> Any:
    """Runs one training step of every replica; returns the new state and the metrics."""
    return self.train_steps[phase.identity](*self._on_devices(state, batches, contexts))

  def _on_devices(self, state: Any, batches: Sequence[Any], contexts: Sequence[StepContext]) -> tuple[Any, ...]:
    return state, self.resident, self.placement.shard_batches(batches), self.placement.stack(contexts)

  def evaluate(self, variables: Any, replicas: Sequence[Replica], split: str, view: int = 0) -> list[Evaluation]:
    """Evaluates every replica on its own split.

    Args:
      variables: The (params, stats) of all replicas, on the devices.
      replicas: Replicas of the placement.
      split: Name of the split.
      view: Number of the test-time augmentation view; 0 for the unchanged images.
    """
    size = self._eval_batch_size(replicas)
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

  def _eval_batch_size(self, replicas: Sequence[Replica]) -> int:
    """Returns the evaluation batch size: the size of the largest split, rounded up to a power of 2, or less.

    The maximum is `eval_batch_size`. Rounding makes folds of 21, 22 and 23 rows share one compiled program, which
    computes 32 rows and not 256.
    """
    most = max(len(each.arrays.rows(split)) for each in replicas for split in ("validation", "test"))
    parts = 1 if self.placement.axis_name is None else len(self.placement.devices)
    # Next power of 2 of `most`, rounded up to a multiple of the number of devices.
    return min(self.settings.eval_batch_size, -(-(1 << max(most - 1, 0).bit_length()) // parts) * parts)


def _stays_on_host(settings: Settings, arrays: Arrays) -> bool:
  if arrays.streamed:
    return True
  if settings.data.residence == "auto":
    return arrays.image.nbytes > _RESIDENT_BYTES
  return settings.data.residence == "host"
