"""Bytes that a compiled training step exchanges between GPUs, as a function of the batch size."""

from typing import NamedTuple

from fer_jax.apps.benchmarks.gpu_program import Collective, GpuProgram
from fer_jax.runtime.errors import UserError


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


def step_traffic(program: GpuProgram) -> Traffic:
  """Returns the traffic of a step.

  Raises:
    UserError: The step has collectives other than all-reduce and all-gather.
  """
  sums = dict.fromkeys(("all-reduce", "all-gather"), 0)
  for kind, result in program.collectives:
    if kind not in sums:
      raise UserError(
        f"--what=scaling: the step has {kind}, whose growth with the batch size is not modelled; expected only "
        "all-reduce and all-gather"
      )
    sums[kind] += result
  return Traffic(sums["all-reduce"], sums["all-gather"], len(program.collectives))
