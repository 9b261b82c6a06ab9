"""Chooses how many replicas train together: one per device in turn, or several batched by `vmap`."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fer_jax.config.settings import CLOCKS
from fer_jax.runtime.parallel import free_memory
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import Replica
from fer_jax.training.run_result import Strategy
from fer_jax.training.step import StepContext

_PROBE_STEPS = 3  # timed steps, after one that is not timed
_SPARE = 0.9  # usable share of the free memory; the memory estimate of a program ignores allocator fragmentation


class StrategyProbe:
  """Measures the memory and time of a training step of several replicas; the computed states are discarded.

  Args:
    compiled: Compiled run whose placement is for this number of replicas.
    phase: Phase whose step is measured.
    replicas: Replicas to measure.
  """

  def __init__(self, compiled: CompiledRun, phase: Phase, replicas: Sequence[Replica]):
    self._compiled, self._phase = compiled, phase
    self._state = compiled.initial_state(phase, replicas)
    self._batches = [compiled.batches(each)[0] for each in replicas]
    self._contexts = [StepContext(np.float32(0), np.int32(each.seed)) for each in replicas]

  def memory(self) -> int:
    """Compiles the step; returns its memory on a device in bytes, 0 if XLA does not report it."""
    return self._compiled.prepare(self._phase, self._state, self._batches, self._contexts)

  def seconds(self) -> float:
    """Runs a few steps; returns the median time of a step in seconds."""
    taken, now = [], CLOCKS[self._compiled.settings.clock]
    for _ in range(1 + _PROBE_STEPS):
      start = now()
      self._state, _ = self._compiled.train_step(self._phase, self._state, self._batches, self._contexts)
      jax.block_until_ready(self._state)
      taken.append(now() - start)
    # The first step may include compilation and transfers.
    return statistics.median(taken[1:])


def choose_strategy(
  configured: str, count: int, devices: Sequence[Any], probe: Callable[[int], StrategyProbe]
) -> Strategy:
  """Chooses how many replicas train together.

  Args:
    configured: Value of `config.replica_strategy`.
    count: Number of replicas.
    devices: Devices that share the replicas.
    probe: Function that returns the probe of the given number of replicas together.

  Returns:
    Strategy with its reason. "vmap" still yields "loop" if a device has room for only one replica.
  """
  in_turn = min(count, len(devices))
  # With at most one replica per device there is nothing to batch.
  if configured == "loop" or count <= len(devices):
    return Strategy("loop", in_turn, "one to a device" if count <= len(devices) else "as configured")
  together, batched, reason = _most_that_fit(count, devices, probe)
  if batched is None:
    return Strategy("loop", in_turn, reason)
  if configured == "vmap":
    return Strategy("vmap", together, reason or "as configured")
  # Compared per replica: the two probes run different numbers of replicas.
  loop_seconds, vmap_seconds = probe(in_turn).seconds() / in_turn, batched.seconds() / together
  measured = (
    f"a step of one replica takes {1e3 * loop_seconds:.1f} ms with loop and {1e3 * vmap_seconds:.1f} ms with vmap"
  )
  if loop_seconds <= vmap_seconds:
    return Strategy("loop", in_turn, measured)
  return Strategy("vmap", together, "; ".join(part for part in (measured, reason) if part))


def _most_that_fit(
  count: int, devices: Sequence[Any], probe: Callable[[int], StrategyProbe]
) -> tuple[int, StrategyProbe | None, str]:
  """Finds the largest number of replicas whose step fits in the device memory.

  Args:
    count: Number of replicas.
    devices: Devices that share the replicas.
    probe: Function that returns the probe of the given number of replicas together.

  Returns:
    Number of replicas, their probe (None if not even two fit on a device), and the reason if it is less than `count`.
  """
  together, reason = count, ""
  while together > len(devices):
    batched = probe(together)
    needed, free = batched.memory(), _SPARE * free_memory(devices[0])
    if needed <= free:
      return together, batched, reason
    # Memory grows about linearly with the replicas, which bounds the number that fits; but always try at least one
    # less per device. Then spread the replicas evenly over the number of waves that this bound requires.
    most = max(min(int(together * free / needed), together - len(devices)), 1)
    fewer = math.ceil(count / math.ceil(count / most))
    reason = (
      f"{together} together would take {needed / 2**30:.2g} GiB on a device with {free / 2**30:.2g} GiB free: "
      f"{fewer} at a time"
    )
    together = fewer
  return together, None, reason
