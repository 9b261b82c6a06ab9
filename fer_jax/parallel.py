"""Where a step runs: on one device by jit, on several by pmap. The only file that says pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UserError

AXIS = "devices"


class Devices:
  """The local devices of a run, and how functions and arrays are put on them.

  State is never stacked: a mapped step takes it and returns it whole (`in_axes=None`, `out_axes=None`), on
  each device the same.

  Args:
    devices: which; default all local ones.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    self.devices = list(jax.local_devices() if devices is None else devices)

  @property
  def axis_name(self) -> str | None:
    """The mapped axis that collectives reduce over; None on one device."""
    return AXIS if len(self.devices) > 1 else None

  def check_batch(self, batch_size: int, key: str) -> None:
    """Raises UserError unless a batch splits evenly over the devices; `key` names the setting."""
    if batch_size % len(self.devices):
      raise UserError(
        f"{key}={batch_size} does not split over {len(self.devices)} devices: take a multiple of {len(self.devices)}"
      )

  def compile_train(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles (state, resident, batch, progress) -> (state, metrics); the batch is from `split`."""
    # A donated buffer that a checkpoint still writes from would be copied on a CPU anyway.
    donate = () if self.devices[0].platform == "cpu" else (0,)
    if self.axis_name is None:
      return jax.jit(step, donate_argnums=donate)
    return jax.pmap(
      step,
      axis_name=self.axis_name,
      devices=self.devices,
      in_axes=(None, None, 0, None),
      out_axes=(None, None),
      donate_argnums=donate,
    )

  def compile_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles (variables, resident, batch) -> (sums, probabilities by device); the batch is from `split`."""
    if self.axis_name is None:
      return jax.jit(step)
    return jax.pmap(step, axis_name=self.axis_name, devices=self.devices, in_axes=(None, None, 0), out_axes=(None, 0))

  def split(self, batch: Any) -> Any:
    """Deals the rows of a host batch over the devices: [B, ...] -> [devices, B / devices, ...]."""
    if self.axis_name is None:
      return batch
    count = len(self.devices)
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)

  def replicate(self, tree: Any) -> Any:
    """Puts arrays on every device once, so that no step has to send them again."""
    if self.axis_name is None:
      return jax.device_put(tree, self.devices[0])
    # The mesh that pmap builds: with any other sharding the arrays would travel at every call.
    mesh = Mesh(np.array(self.devices), (self.axis_name,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))

  def peak_memory(self) -> int | None:
    """Returns the largest peak of device memory so far in bytes; None where the backend does not say."""
    statistics = [device.memory_stats() for device in self.devices]
    peaks = [s["peak_bytes_in_use"] for s in statistics if s and "peak_bytes_in_use" in s]
    return max(peaks) if peaks else None
