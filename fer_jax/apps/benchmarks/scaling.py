"""Bytes that a training step sends between devices, and the parallel efficiency predicted from them."""

import contextlib
import dataclasses
import functools
import math
import re
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, settings_of
from fer_jax.config.settings import Settings
from fer_jax.data.batch import Batch
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.initialization import Initialization, initialize
from fer_jax.training.phases import Phase, plan_phases
from fer_jax.training.step import Resident, StepContext

COUNTED = (2, 4, 8)  # numbers of devices for which programs are compiled
PREDICTED = (2, 4, 8, 16, 64)  # numbers of devices for which times are predicted
NODE = 8  # GPUs per node
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# A line of HLO text such as `%all-gather.1 = f32[8,128]{1,0} all-gather(...)`.
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%\S+ = (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
# An array type such as `f32[8,128]`, or `pred[8]`, whose elements take one byte.
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\w*\[([\d,]*)\]|\bpred\[([\d,]*)\]")
# The programs are not executed; level 0 compiles them in a fraction of the time.
_COMPILER = {"xla_backend_optimization_level": 0}


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


class Collective(NamedTuple):
  """A collective operation of a compiled program.

  Attributes:
    kind: Operation: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
    result: Bytes of the result on each device.
  """

  kind: str
  result: int


class Traffic(NamedTuple):
  """Collectives of a training step, in bytes of their results; the bytes sent also depend on the number of devices.

  Attributes:
    reduced: Bytes of the results of all all-reduces.
    gathered: Bytes of the results of all all-gathers.
    collectives: Number of all-reduces and all-gathers.
  """

  reduced: float
  gathered: float
  collectives: int


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
  settings = settings_of(config)
  cpus = _cpus(max(COUNTED))
  rows: list[Row] = []
  for name, candidate in _candidates(settings).items():
    counted = {n: n * settings.batch_size for n in COUNTED}
    model = fit({batch: traffic_of(candidate, cpus[:n], batch) for n, batch in counted.items()})
    rows += _rows(name, settings.batch_size, model, _one_device(candidate, rounds))
  return Benchmark(f"{next(iter(_candidates(settings)))}, weak, {max(COUNTED)} devices", rows)


class Model(NamedTuple):
  """Traffic as a function of the global batch size B: gathered = linear * B + square * B^2.

  Gathered activations grow with B, gathered Gram matrices with B^2.

  Attributes:
    reduced: All-reduced bytes, independent of B.
    linear: Gathered bytes per row of the batch.
    square: Gathered bytes per pair of rows.
    collectives: Number of collectives, independent of B.
    error: Maximum relative error of the formula over all compiled programs.
  """

  reduced: float
  linear: float
  square: float
  collectives: int
  error: float

  def at(self, batch: int) -> Traffic:
    """Returns the traffic at a global batch size."""
    return Traffic(self.reduced, self.linear * batch + self.square * batch**2, self.collectives)


def fit(counted: dict[int, Traffic]) -> Model:
  """Fits traffic as a function of the global batch size.

  Args:
    counted: Traffic of two or more compiled programs, by global batch size. The smallest and the largest determine the
      formula; the others only contribute to its error.
  """
  small, large = min(counted), max(counted)
  # gathered / B = linear + square * B is a line through the two points.
  slope_small, slope_large = counted[small].gathered / small, counted[large].gathered / large
  square = (slope_large - slope_small) / (large - small)
  last = counted[large]
  model = Model(last.reduced, slope_small - square * small, square, last.collectives, 0.0)
  wrong = [abs(model.at(b).gathered - t.gathered) / max(t.gathered, 1) for b, t in counted.items()]
  wrong += [abs(last.reduced - t.reduced) / max(t.reduced, 1) for t in counted.values()]
  return model._replace(error=max(wrong))


def collectives_of(program: str) -> list[Collective]:
  """Parses the collective operations of a compiled program.

  Args:
    program: Optimised HLO of the program, as text.

  Raises:
    ValueError: A collective is asynchronous, as on a GPU. Its result type then includes the operand, so the bytes would
      be counted wrongly.
  """
  found = []
  for match in filter(None, map(_COLLECTIVE.match, program.splitlines())):
    if match["start"]:
      raise ValueError(f"{match['kind']}-start: expected a program compiled for a CPU")
    found.append(Collective(match["kind"], sum(map(_bytes, _ARRAY.finditer(match["result"])))))
  return found


def sent(collective: Collective, devices: int) -> float:
  """Returns the bytes that each device sends, with ring algorithms on this number of devices."""
  kind, result = collective
  others = devices - 1
  # Relative to the result on one device. An all-reduce is a reduce-scatter followed by an all-gather.
  factors = {
    "all-reduce": 2 * others / devices,
    "all-gather": others / devices,
    "reduce-scatter": float(others),
    "all-to-all": others / devices,
    "collective-permute": 1.0,
  }
  return factors[kind] * result


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
  seconds = (2 * traffic.reduced + traffic.gathered) * (inside - 1) / inside / NVLINK.bandwidth
  seconds += traffic.collectives * NVLINK.latency
  if nodes > 1:
    share = (2 * traffic.reduced + traffic.gathered) / inside * (nodes - 1) / nodes
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


def _phase_of(settings: Settings, devices: Sequence[jax.Device]) -> tuple[Phase, Initialization, int]:
  """Returns the first phase, its initial variables, and the height and width of its images."""
  placement = Devices(devices)
  size = settings.data.image_size or FER2013[1]
  initialization = initialize(settings, (size, size, FER2013[3]), CLASSES, placement.axis_name)
  phases = plan_phases(settings, initialization.network, placement.axis_name, FER2013[0])
  return phases[0], initialization, size


def traffic_of(settings: Settings, devices: Sequence[jax.Device], batch: int) -> Traffic:
  """Compiles the first phase's step for CPU devices, and returns its traffic.

  Args:
    settings: Settings whose first phase is compiled.
    devices: CPU devices.
    batch: Global batch size.

  Raises:
    UserError: The step has collectives other than all-reduce and all-gather.
  """
  phase, initialization, size = _phase_of(settings, devices)
  shape = jax.ShapeDtypeStruct
  rows = (len(devices), batch // len(devices))
  # Shapes alone suffice to compile: no data of FER2013's size is allocated.
  arguments = (
    jax.eval_shape(functools.partial(phase.initial_state, 0), *initialization.shapes),
    Resident(shape((FER2013[0], size, size, FER2013[3]), jnp.uint8), shape((FER2013[0], CLASSES), jnp.float32)),
    Batch(shape(rows, jnp.int32), shape(rows, jnp.bool)),
    StepContext(*(shape((), dtype) for dtype in (jnp.float32, jnp.int32, jnp.float32))),
  )
  step: Any = Devices(devices).compile_train(phase.train_step, phase.identity)
  program = step.lower(*arguments).compile(compiler_options=_COMPILER).as_text()
  found = collectives_of(program)
  others = {each.kind for each in found} - {"all-reduce", "all-gather"}
  if others:
    raise UserError(
      f"--what=scaling: the step has {', '.join(sorted(others))}, whose growth with the batch size is not "
      "modelled; expected only all-reduce and all-gather"
    )
  of_kind = {kind: sum(each.result for each in found if each.kind == kind) for kind in _KINDS}
  return Traffic(of_kind["all-reduce"], of_kind["all-gather"], len(found))


def _one_device(settings: Settings, rounds: int) -> dict[int, float]:
  """Returns the median seconds of a step on one device, by batch size; on a GPU, also for each share of the batch."""
  device = jax.local_devices()[0]
  batch = settings.batch_size
  parts = (1,) if _on_cpu() else (1, *PREDICTED)
  phase, initialization, size = _phase_of(settings, [device])
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, (batch, size, size, FER2013[3]), dtype=np.uint8)
  target = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, batch)]
  placement = Devices([device])
  step = placement.compile_train(phase.train_step, f"training {phase.identity}")
  resident, context = placement.replicate(Resident(image, target)), StepContext(np.float32(0.5), np.int32(0))
  seconds = {}
  for rows in (batch // n for n in parts if batch % n == 0):
    state = placement.place([phase.initial_state(0, *initialization.variables([0])[0])])
    taken = []
    for _ in range(rounds + 1):  # the first compiles
      start = time.perf_counter()
      indices = Batch(np.arange(rows, dtype=np.int32), np.ones(rows, bool))
      state, _ = jax.block_until_ready(step(state, resident, indices, context))
      taken.append(time.perf_counter() - start)
    seconds[rows] = statistics.median(taken[1:])
  return seconds


def _rows(name: str, batch: int, model: Model, seconds: dict[int, float]) -> list[Row]:
  """Returns the rows of one step.

  Args:
    name: Name of the step.
    batch: Batch size of the config.
    model: Traffic as a function of the global batch size.
    seconds: Measured compute seconds on one device, by batch size.
  """
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
        of = f"{name}, {mode}, {devices} devices" + (f", {label}" if label else "")
        rows.append({"name": of} | _row(traffic, devices, part, network, model.error))
        if part in seconds and not on_cpu:
          communication = rows[-1]["communication_seconds"]
          low, high = efficiency(one, seconds[part], communication, part / batch)
          rows[-1] |= {"compute_seconds": seconds[part], "efficiency_low": low, "efficiency_high": high}
  return rows


def _on_cpu() -> bool:
  return jax.local_devices()[0].platform == "cpu"


def _row(traffic: Traffic, devices: int, part: int, network: Link, error: float) -> Row:
  communication = communication_seconds(traffic, devices, network)
  reduced = sent(Collective("all-reduce", round(traffic.reduced)), devices)
  gathered = sent(Collective("all-gather", round(traffic.gathered)), devices)
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


def _bytes(array: re.Match[str]) -> int:
  """Returns the bytes of an array type matched by _ARRAY."""
  _, bits, dimensions, flags = array.groups()
  count = math.prod(int(each) for each in (dimensions or flags or "").split(",") if each)
  return count * int(bits) // 8 if bits else count
