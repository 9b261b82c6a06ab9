"""Bytes that a compiled training step exchanges between devices, as a function of the batch size."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013
from fer_jax.config.settings import Settings
from fer_jax.data.batch import Batch
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.parallel import Devices
from fer_jax.training.initialization import Initialization, initialize
from fer_jax.training.phases import Phase, plan_phases
from fer_jax.training.step import Resident, StepContext

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# A line of HLO text such as `%all-gather.1 = f32[8,128]{1,0} all-gather(...)`.
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%\S+ = (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
# An array type such as `f32[8,128]`, or `pred[8]`, whose elements take one byte.
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\w*\[([\d,]*)\]|\bpred\[([\d,]*)\]")
# The programs are not executed; level 0 compiles them in a fraction of the time.
_COMPILER = {"xla_backend_optimization_level": 0}


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


class TrafficModel(NamedTuple):
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


def fit_traffic(counted: dict[int, Traffic]) -> TrafficModel:
  """Fits traffic as a function of the global batch size.

  Args:
    counted: Traffic of two or more compiled programs, by global batch size. The smallest and the largest determine the
      formula; the others only contribute to its error.
  """
  small, large = min(counted), max(counted)
  # gathered / B = linear + square * B is a line through the two points.
  ratio_small, ratio_large = counted[small].gathered / small, counted[large].gathered / large
  square = (ratio_large - ratio_small) / (large - small)
  largest = counted[large]
  model = TrafficModel(largest.reduced, ratio_small - square * small, square, largest.collectives, 0.0)
  errors = [abs(model.at(b).gathered - t.gathered) / max(t.gathered, 1) for b, t in counted.items()]
  errors += [abs(largest.reduced - t.reduced) / max(t.reduced, 1) for t in counted.values()]
  return model._replace(error=max(errors))


def parse_collectives(program: str) -> list[Collective]:
  """Parses the collective operations of a compiled program.

  Args:
    program: Optimised HLO of the program, as text.

  Raises:
    ValueError: A collective is asynchronous, as on a GPU. Its result type then includes the operand, so the bytes would
      be counted errorsly.
  """
  found = []
  for match in filter(None, map(_COLLECTIVE.match, program.splitlines())):
    if match["start"]:
      raise ValueError(f"{match['kind']}-start: expected a program compiled for a CPU")
    found.append(Collective(match["kind"], sum(map(_array_bytes, _ARRAY.finditer(match["result"])))))
  return found


def bytes_sent(collective: Collective, devices: int) -> float:
  """Returns the bytes that each device sends, with ring algorithms on this number of devices."""
  kind, result = collective
  # Relative to the result on one device. An all-reduce is a reduce-scatter followed by an all-gather.
  factors = {
    "all-reduce": 2 * (devices - 1) / devices,
    "all-gather": (devices - 1) / devices,
    "reduce-scatter": float(devices - 1),
    "all-to-all": (devices - 1) / devices,
    "collective-permute": 1.0,
  }
  return factors[kind] * result


def first_phase(settings: Settings, devices: Sequence[jax.Device]) -> tuple[Phase, Initialization, int]:
  """Returns the first phase, its initial variables, and the height and width of its images."""
  placement = Devices(devices)
  size = settings.data.image_size or FER2013[1]
  initialization = initialize(settings, (size, size, FER2013[3]), CLASSES, placement.axis_name)
  phases = plan_phases(settings, initialization.network, placement.axis_name, FER2013[0])
  return phases[0], initialization, size


def step_traffic(settings: Settings, devices: Sequence[jax.Device], batch: int) -> Traffic:
  """Compiles the first phase's step for CPU devices, and returns its traffic.

  Args:
    settings: Settings whose first phase is compiled.
    devices: CPU devices.
    batch: Global batch size.

  Raises:
    UserError: The step has collectives other than all-reduce and all-gather.
  """
  phase, initialization, size = first_phase(settings, devices)
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
  found = parse_collectives(program)
  others = {each.kind for each in found} - {"all-reduce", "all-gather"}
  if others:
    raise UserError(
      f"--what=scaling: the step has {', '.join(sorted(others))}, whose growth with the batch size is not "
      "modelled; expected only all-reduce and all-gather"
    )
  result_bytes = {kind: sum(each.result for each in found if each.kind == kind) for kind in _KINDS}
  return Traffic(result_bytes["all-reduce"], result_bytes["all-gather"], len(found))


def _array_bytes(array: re.Match[str]) -> int:
  """Returns the bytes of an array type matched by _ARRAY."""
  _, bits, dimensions, flags = array.groups()
  count = math.prod(int(each) for each in (dimensions or flags or "").split(",") if each)
  return count * int(bits) // 8 if bits else count
