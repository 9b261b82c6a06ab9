"""Parallel efficiency on several GPUs, predicted from the programs that XLA compiles for them."""

import dataclasses
from typing import NamedTuple

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, load_settings
from fer_jax.apps.benchmarks.gpu import with_twin
from fer_jax.apps.benchmarks.gpu_program import GpuProgram
from fer_jax.apps.benchmarks.gpu_step import compile_step, training_steps
from fer_jax.apps.benchmarks.gpu_target import TARGETS, absent_devices
from fer_jax.apps.benchmarks.traffic import (
  Collective,
  Traffic,
  TrafficModel,
  bytes_sent,
  fit_traffic,
  step_traffic,
)
from fer_jax.config.settings import Settings

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
  """Counts the bytes that steps exchange between H100s, and estimates their parallel efficiency.

  The mapped programs are compiled for each number of devices in COUNTED, with the config's batch on every device, and
  for one device with that batch and an eighth of it. No GPU is needed, and nothing is measured.

  Args:
    config: Config, FILE.py:VARIANT. The step is that of the first phase of its schedule; if the objective is the HSIC
      bottleneck, its back-propagated twin is compiled as well.
    rounds: Not used.

  Returns:
    For each step, one row for a single device, then rows for 2 to 64 devices, with `weak` scaling (every device has the
    config's batch) and `strong` scaling (all devices share it). They contain the bytes that a device sends,
    `communication_seconds` over the assumed links, `compute_seconds` of a device (`GpuProgram.seconds`, on a straight
    line in the batch size), and `efficiency_low` (no overlap) and `efficiency_high` (full overlap): images per second
    relative to as many independent devices.

  Raises:
    UserError: XLA for CUDA is not installed.
  """
  del rounds
  settings = load_settings(config)
  rows: list[Row] = []
  for name, candidate in with_twin(settings).items():
    batch = settings.batch_size
    model = fit_traffic({n * batch: step_traffic(_compile(candidate, n, batch)) for n in COUNTED})
    seconds = {size: _compile(candidate, 1, size).seconds(TARGETS["h100"]) for size in (batch, max(1, batch // NODE))}
    rows += _rows(name, batch, model, seconds)
  return Benchmark(f"{settings.schedule[0]}, weak, {max(COUNTED)} devices", rows)


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


def _compile(settings: Settings, devices: int, batch_size: int) -> GpuProgram:
  """Compiles the first phase's step with a batch on each device."""
  changed = dataclasses.replace(settings, batch_size=batch_size)
  steps = training_steps(changed, absent_devices(TARGETS["h100"], devices))
  return compile_step(steps[settings.schedule[0]], quick=True).program


def _rows(name: str, batch: int, model: TrafficModel, seconds: dict[int, float]) -> list[Row]:
  """Returns the rows of one step, from its traffic and its seconds on one device for two batch sizes."""
  one, small = seconds[batch], min(seconds)
  seconds_a_row = (one - seconds[small]) / max(1, batch - small)
  rows: list[Row] = [{"name": f"{name}, one device"} | _row(Traffic(0, 0, 0), 1, batch, NVLINK, model.error)]
  rows[0] |= {"compute_seconds": one, "efficiency_low": 1.0, "efficiency_high": 1.0}
  for mode in ("weak", "strong"):
    for devices in PREDICTED:
      if mode == "strong" and batch % devices:
        continue
      part = batch if mode == "weak" else batch // devices
      compute = one - (batch - part) * seconds_a_row
      traffic = model.at(part * devices)
      for label, network in NETWORKS.items() if devices > NODE else {"": NVLINK}.items():
        row_name = f"{name}, {mode}, {devices} devices" + (f", {label}" if label else "")
        row = _row(traffic, devices, part, network, model.error)
        low, high = efficiency(one, compute, row["communication_seconds"], part / batch)
        estimated = {"compute_seconds": compute, "efficiency_low": low, "efficiency_high": high}
        rows.append({"name": row_name} | row | estimated)
  return rows


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
    "formula_error": error,
  }
