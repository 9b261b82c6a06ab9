"""Time of a training step per replica when several run together: sequentially, vectorised, on all devices."""

import statistics

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, load_settings, random_arrays
from fer_jax.runtime.parallel import Replicas, all_devices
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.initialization import initialize
from fer_jax.training.phases import plan_phases
from fer_jax.training.replicas import Replica
from fer_jax.training.strategy import StrategyProbe

REPLICAS = 4
# Names of the rows: replicas one after another, vectorised on one device, distributed over all devices.
SEQUENTIAL, VECTORISED, DISTRIBUTED = "in turn", "side by side", "in turn, on all devices"


def strategies(config: str, rounds: int) -> Benchmark:
  """Times the training step of several replicas of a config on random faces, with each strategy.

  Args:
    config: Config, FILE.py:VARIANT, that provides network, image size, batch size and precision.
    rounds: Timed repetitions per strategy, interleaved.

  Returns:
    One row per strategy: seconds of a step per replica, `time_ratio` relative to sequential execution, and memory of a
    step per device. On a CPU every core is a device, as in a run with replicas.
  """
  settings = load_settings(config)
  size = settings.data.image_size or FER2013[1]
  devices = all_devices(REPLICAS)
  replicas = [Replica(str(seed), seed, None, random_arrays(4 * settings.batch_size, size)) for seed in range(REPLICAS)]
  arrays = replicas[0].arrays
  initialization = initialize(settings, arrays.image.shape[1:], CLASSES)
  phases = plan_phases(settings, initialization.network, None, len(arrays))
  placements = {SEQUENTIAL: Replicas(1, devices[:1]), VECTORISED: Replicas(REPLICAS, devices[:1])}
  if len(devices) > 1:
    placements[DISTRIBUTED] = Replicas(min(REPLICAS, len(devices)), devices)
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
  return Benchmark(VECTORISED, _rows(seconds, memory, {name: len(p.devices) for name, p in placements.items()}))


def _rows(seconds: dict[str, list[float]], memory: dict[str, int], devices: dict[str, int]) -> list[Row]:
  return [
    {
      "name": name,
      "seconds_a_step": statistics.median(taken),
      # Ratio within each round, so that a temporary slowdown of the machine cancels.
      "time_ratio": statistics.median(one / other for one, other in zip(taken, seconds[SEQUENTIAL], strict=True)),
      "memory_bytes": memory[name],
      "devices": devices[name],
    }
    for name, taken in seconds.items()
  ]
