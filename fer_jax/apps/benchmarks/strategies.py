"""Time of a training step per replica when several run together: sequentially, vectorised, on all devices."""

import statistics
from collections.abc import Sequence

import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, settings_of
from fer_jax.data.arrays import Arrays
from fer_jax.runtime.parallel import Replicas, all_devices
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.initialization import initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.replicas import Replica
from fer_jax.training.strategy import StrategyProbe

TRAININGS = 4  # number of replicas
# Names of the rows: replicas one after another, vectorised on one device, distributed over all devices.
IN_TURN, BESIDE, SPREAD = "in turn", "side by side", "in turn, on all devices"


def strategies(config: str, rounds: int) -> Benchmark:
  """Times the training step of several replicas of a config on random faces, with each strategy.

  Args:
    config: Config, FILE.py:VARIANT, that provides network, image size, batch size and precision.
    rounds: Timed repetitions per strategy, interleaved.

  Returns:
    One row per strategy: seconds of a step per replica, `time_ratio` relative to sequential execution, and memory of a
    step per device. On a CPU every core is a device, as in a run with replicas.
  """
  settings = settings_of(config)
  size = settings.data.image_size or FER2013[1]
  devices = all_devices(TRAININGS)
  replicas = [Replica(str(seed), seed, None, _faces(4 * settings.batch_size, size)) for seed in range(TRAININGS)]
  arrays = replicas[0].arrays
  initialization = initialize(settings, arrays.image.shape[1:], CLASSES)
  phases = plan_phases(settings, initialization.network, None, len(arrays))
  placements = {IN_TURN: Replicas(1, devices[:1]), BESIDE: Replicas(TRAININGS, devices[:1])}
  if len(devices) > 1:
    placements[SPREAD] = Replicas(min(TRAININGS, len(devices)), devices)
  probes = {}
  for name, placement in placements.items():
    compiled = CompiledRun(settings, initialization, phases, placement, arrays)
    probes[name] = StrategyProbe(compiled, phases[0], replicas[: placement.together])
  memory = {name: probe.memory() for name, probe in probes.items()}
  seconds: dict[str, list[float]] = {name: [] for name in probes}
  for _ in range(rounds):
    for name, probe in probes.items():
      # One call advances all replicas that are together: divide by their number.
      seconds[name].append(probe.seconds() / placements[name].together)
  return Benchmark(BESIDE, _rows(seconds, memory, {name: len(p.devices) for name, p in placements.items()}))


def _rows(seconds: dict[str, list[float]], memory: dict[str, int], devices: dict[str, int]) -> list[Row]:
  in_turn: Sequence[float] = seconds[IN_TURN]
  return [
    {
      "name": name,
      "seconds_a_step": statistics.median(taken),
      # Ratio within each round, so that a temporary slowdown of the machine cancels.
      "time_ratio": statistics.median(one / other for one, other in zip(taken, in_turn, strict=True)),
      "memory_bytes": memory[name],
      "devices": devices[name],
    }
    for name, taken in seconds.items()
  ]


def _faces(count: int, size: int) -> Arrays:
  """Returns random grey images uint8 [count, size, size, 1] with random labels, all in the training split."""
  generator = np.random.default_rng(0)
  return Arrays(
    image=generator.integers(0, 256, (count, size, size, FER2013[3]), dtype=np.uint8),
    label=generator.integers(0, CLASSES, count).astype(np.int32),
    subject=np.full(count, ""),
    group=np.arange(count, dtype=np.int32),
    split=np.full(count, "train"),
    class_names=tuple("abcdefg"),
  )
