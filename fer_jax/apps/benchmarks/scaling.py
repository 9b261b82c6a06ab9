"""Parallel efficiency on several devices, predicted from the bytes that a training step exchanges."""

import contextlib
import dataclasses
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, load_settings
from fer_jax.apps.benchmarks.traffic import (
  Collective,
  Traffic,
  TrafficModel,
  bytes_sent,
  first_phase,
  fit_traffic,
  step_traffic,
)
from fer_jax.config.settings import Settings
from fer_jax.data.batch import Batch
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.step import Resident, StepContext

COUNTED = (2, 4, 8)  # numbers of devices for which programs are compiled
PREDICTED = (2, 4, 8, 16, 64)  # numbers of devices for which times are predicted
NODE = 8  # GPUs per node


class Link(NamedTuple):
  """Interconnect between devices: an assumption, not a measurement.

  Attributes:
    bandwidth: Bytes per second that a GPU sends, in one direction.
    latency: Seconds per collective, in addition to the transfer time.
  """

  bandwidth: float
  latency: float


# Data sheet values, which real transfers do not reach: NVLink 4 of an H100, 900 GB/s in both directions together; one
# 400 Gb/s NDR port per GPU; one 100 Gb/s port per node, shared by its GPUs. Latencies are rounded, of the order of
# NCCL's for small messages.
NVLINK = Link(450e9, 20e-6)
NETWORKS = {"ndr": Link(50e9, 40e-6), "100gbe": Link(12.5e9 / NODE, 100e-6)}


def scaling(config: str, rounds: int) -> Benchmark:
  """Counts the bytes exchanged by compiled steps, and predicts the communication time on several devices.

  The actual sharded programs are compiled on the CPU for each number of devices in COUNTED, with the config's batch on
  every device. XLA merges fewer collectives on a CPU than on a GPU.

  Args:
    config: Config, FILE.py:VARIANT. The step is that of the first phase of its schedule; if the objective is the HSIC
      bottleneck, its back-propagated twin is measured as well.
    rounds: Timed steps on one device, the first local one.

  Returns:
    For each step, one row for a single device with measured `compute_seconds`, then rows for 2 to 64 devices, with
    `weak` scaling (every device has the config's batch) and `strong` scaling (all devices share it). They contain the
    bytes that a device sends, `communication_seconds` over the assumed links, and `seconds_for_90` and
    `seconds_for_50`: compute time per device above which efficiency without overlap exceeds 90 and 50 %. If the
    single device is a GPU, also `compute_seconds`, `efficiency_low` (no overlap) and `efficiency_high` (full overlap):
    images per second relative to as many independent devices.

  Raises:
    UserError: JAX has fewer CPU devices than max(COUNTED).
  """
  settings = load_settings(config)
  cpus = _cpus(max(COUNTED))
  rows: list[Row] = []
  for name, candidate in _candidates(settings).items():
    counted = {n: n * settings.batch_size for n in COUNTED}
    model = fit_traffic({batch: step_traffic(candidate, cpus[:n], batch) for n, batch in counted.items()})
    rows += _rows(name, settings.batch_size, model, _time_one_device(candidate, rounds))
  return Benchmark(f"{next(iter(_candidates(settings)))}, weak, {max(COUNTED)} devices", rows)


def communication_seconds(traffic: Traffic, devices: int, network: Link) -> float:
  """Returns the seconds of a step's collectives, hierarchical if there are several nodes.

  Within a node, data are exchanged over NVLINK; each GPU then exchanges its share with its counterparts in the other
  nodes.

  Args:
    traffic: Traffic of the step.
    devices: Number of devices, a divisor or a multiple of NODE.
    network: Link between nodes; not used for a single node.
  """
  inside = min(devices, NODE)
  nodes = devices // inside
  # Ring of `inside` devices: an all-reduce sends 2 (n - 1) / n of its bytes, an all-gather (n - 1) / n.
  total = 2 * traffic.reduced + traffic.gathered
  seconds = total * (inside - 1) / inside / NVLINK.bandwidth + traffic.collectives * NVLINK.latency
  if nodes > 1:
    share = total / inside * (nodes - 1) / nodes
    seconds += share / network.bandwidth + traffic.collectives * network.latency
  return seconds


def efficiency(one: float, part: float, communication: float, scale: float) -> tuple[float, float]:
  """Returns parallel efficiency without overlap and with full overlap of computation and communication.

  Efficiency is images per second relative to as many independent devices.

  Args:
    one: Seconds of a step on a single device.
    part: Compute seconds of each of several devices.
    communication: Seconds of the collectives.
    scale: Batch size per device, relative to the batch size of the single device.
  """
  return one * scale / (part + communication), one * scale / max(part, communication)


def _candidates(settings: Settings) -> dict[str, Settings]:
  """Returns the settings whose first phase is measured, by name: the config's own, and its back-propagated twin."""
  name = settings.schedule[0]
  phase = settings.phases[name]
  if not isinstance(phase.objective, HsicBottleneck):
    return {name: settings}
  twin = dataclasses.replace(phase, objective=Backprop(), train=("*",))
  return {
    "hsic_bottleneck": settings,
    "backprop": dataclasses.replace(settings, phases={**settings.phases, name: twin}),
  }


def _cpus(count: int) -> list[jax.Device]:
  """Returns the CPU devices, requesting `count` of them; raises UserError if there are fewer."""
  found: list[jax.Device] = []
  with contextlib.suppress(RuntimeError):  # raised if the backends are initialised already
    jax.config.update("jax_num_cpu_devices", count)
  with contextlib.suppress(RuntimeError):  # raised if JAX_PLATFORMS excludes the CPU
    found = jax.devices("cpu")
  if len(found) < count:
    raise UserError(
      f"--what=scaling: expected {count} CPU devices to compile for, JAX has {len(found)}; unset XLA_FLAGS, "
      "JAX_NUM_CPU_DEVICES and JAX_PLATFORMS"
    )
  return found


def _time_one_device(settings: Settings, rounds: int) -> dict[int, float]:
  """Returns the median seconds of a step on one device, by batch size; on a GPU, also for each share of the batch."""
  device = jax.local_devices()[0]
  batch = settings.batch_size
  parts = (1,) if _on_cpu() else (1, *PREDICTED)
  phase, initialization, size = first_phase(settings, [device])
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, (batch, size, size, FER2013[3]), dtype=np.uint8)
  target = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, batch)]
  placement = Devices([device])
  step = placement.compile_train(phase.train_step, f"training {phase.identity}")
  resident, context = placement.replicate(Resident(image, target)), StepContext(np.float32(0.5), np.int32(0))
  seconds = {}
  for rows in (batch // n for n in parts if batch % n == 0):
    state = placement.put_states([phase.initial_state(0, *initialization.variables([0])[0])])
    taken = []
    for _ in range(rounds + 1):  # the first compiles
      start = time.perf_counter()
      indices = Batch(np.arange(rows, dtype=np.int32), np.ones(rows, bool))
      state, _ = jax.block_until_ready(step(state, resident, indices, context))
      taken.append(time.perf_counter() - start)
    seconds[rows] = statistics.median(taken[1:])
  return seconds


def _rows(name: str, batch: int, model: TrafficModel, seconds: dict[int, float]) -> list[Row]:
  """Returns the rows of one step, from its traffic and its compute seconds on one device by batch size."""
  one, on_cpu = seconds[batch], _on_cpu()
  alone = _row(Traffic(0, 0, 0), 1, batch, NVLINK, model.error)
  measured = {"compute_seconds": one, "efficiency_low": 1.0, "efficiency_high": 1.0, "images_per_second": batch / one}
  rows: list[Row] = [{"name": f"{name}, one device"} | alone | measured]
  for mode in ("weak", "strong"):
    for devices in PREDICTED:
      if mode == "strong" and batch % devices:
        continue
      part = batch if mode == "weak" else batch // devices
      traffic = model.at(part * devices)
      for label, network in NETWORKS.items() if devices > NODE else {"": NVLINK}.items():
        row_name = f"{name}, {mode}, {devices} devices" + (f", {label}" if label else "")
        rows.append({"name": row_name} | _row(traffic, devices, part, network, model.error))
        if part in seconds and not on_cpu:
          communication = rows[-1]["communication_seconds"]
          low, high = efficiency(one, seconds[part], communication, part / batch)
          rows[-1] |= {"compute_seconds": seconds[part], "efficiency_low": low, "efficiency_high": high}
  return rows


def _on_cpu() -> bool:
  return jax.local_devices()[0].platform == "cpu"


def _row(traffic: Traffic, devices: int, part: int, network: Link, error: float) -> Row:
  communication = communication_seconds(traffic, devices, network)
  reduced = bytes_sent(Collective("all-reduce", round(traffic.reduced)), devices)
  gathered = bytes_sent(Collective("all-gather", round(traffic.gathered)), devices)
  return {
    "devices": devices,
    "batch": part * devices,
    "collectives": traffic.collectives,
    "all_gather_bytes": gathered,
    "all_reduce_bytes": reduced,
    "bytes_a_step": gathered + reduced,
    "communication_seconds": communication,
    # Without overlap, efficiency is compute / (compute + communication).
    "seconds_for_90": 9 * communication,
    "seconds_for_50": communication,
    "formula_error": error,
  }
