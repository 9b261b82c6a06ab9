"""Placement of steps on devices: jit on one device, pmap on several, vmap for several replicas on one device.

A placement is for one replica over all devices (`Devices`), or for several replicas, each on one device (`Replicas`).
Both have the same methods, so that the training loop does not depend on the placement. No other file uses pmap.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.runtime import provenance
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.programs import CachedProgram, Program

AXIS = "devices"  # name of the mapped axis


def all_devices(replicas: int = 1) -> list[jax.Device]:
  """Returns the devices of all processes; on a CPU, splits the host into one device per core for several replicas.

  The step of a small network does not keep several cores busy, but the steps of several replicas do. The host cannot be
  split after the first use of a device, or if the user has set the number of devices in `XLA_FLAGS`.

  Args:
    replicas: Number of replicas that will be distributed over the devices.
  """
  if replicas > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    with contextlib.suppress(RuntimeError):  # a device has been used: the number cannot change any more
      jax.config.update("jax_num_cpu_devices", min(replicas, provenance.cores()))
  return jax.devices()


class Placement(Protocol):
  """A number of parallel replicas: compiles their steps, and arranges their arrays on the devices.

  Attributes:
    devices: Devices that are used.
    together: Number of parallel replicas.
  """

  devices: list[jax.Device]
  together: int

  @property
  def process(self) -> tuple[int, int]:
    """Part of every global batch that this process provides: (index of the part, number of parts)."""

  @property
  def axis_name(self) -> str | None:
    """Mapped axis that the collectives of a step reduce over; None if a replica does not span several devices."""

  def compile_train(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles a training step for arguments that are arranged by the methods below.

    Args:
      step: Pure function (state, resident, batch, context) -> (state, metrics).
      identity: Text that identifies the step. On one device it is the key of the trace on disk; see `CachedProgram`.
    """

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles an evaluation step in the same way.

    Args:
      step: Pure function (variables, resident, batch) -> (sums, probabilities of the global batch).
      identity: Text that identifies the step.
    """

  def stack(self, trees: Sequence[Any]) -> Any:
    """Combines small host trees, such as step contexts, one for each of at most `together` replicas."""

  def shard_batches(self, batches: Sequence[Any]) -> Any:
    """Arranges host batches for the devices: this process's part of one global batch per replica."""

  def put_states(self, trees: Sequence[Any]) -> Any:
    """Transfers the states of all replicas to the devices."""

  def replicate(self, tree: Any) -> Any:
    """Transfers arrays that all replicas share to every device once, so that no step has to transfer them."""

  def select_replica(self, tree: Any, number: int) -> Any:
    """Returns one replica's part of placed arrays or of the outputs of a step; for host arrays, views."""

  def peak_memory(self) -> int | None:
    """Returns the largest peak memory of any device so far, in bytes; None if the backend does not report it."""


class Devices:
  """One replica over several devices, each of which computes an equal share of every batch (data parallelism).

  The state is not stacked: it is replicated, and a mapped step takes and returns it without a device axis
  (`in_axes=None`, `out_axes=None`).

  If the devices belong to several processes, each process splits its own part of a batch over its own devices, and
  replicated arrays are, in each process, arrays on its own devices.

  Args:
    devices: Devices in the order of their processes, the same number from each; default all local devices.
  """

  together = 1

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    self.devices = list(jax.local_devices() if devices is None else devices)
    self._own = [device for device in self.devices if device.process_index == jax.process_index()]

  @property
  def process(self) -> tuple[int, int]:
    """Part of every global batch that this process provides: (index of the part, number of parts)."""
    parts = len(self.devices) // len(self._own)
    return (jax.process_index() if parts > 1 else 0), parts

  @property
  def axis_name(self) -> str | None:
    """Mapped axis that collectives reduce over; None on one device."""
    return AXIS if len(self.devices) > 1 else None

  def check_batch(self, batch_size: int, key: str) -> None:
    """Raises UserError with the config key `key` if the batch size is not a multiple of the number of devices."""
    if batch_size % len(self.devices):
      raise UserError(
        f"{key}={batch_size} does not split over {len(self.devices)} devices: use a multiple of {len(self.devices)}"
      )

  def compile_train(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (state, resident, batch, context) -> (state, metrics) for batches from `split`."""
    if self.axis_name is None:
      return _cached_program(step, identity, self.devices[0], donate=True)
    return jax.pmap(
      step,
      axis_name=self.axis_name,
      devices=self.devices,
      in_axes=(None, None, 0, None),  # only the batch has a device axis
      out_axes=(None, None),
      donate_argnums=_donated_argnums(self.devices),
    )

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (variables, resident, batch) -> (sums, probabilities) for batches from `split`."""
    if self.axis_name is None:
      return _cached_program(step, identity, self.devices[0])
    return jax.pmap(
      step, axis_name=self.axis_name, devices=self.devices, in_axes=(None, None, 0), out_axes=(None, None)
    )

  def split(self, batch: Any) -> Any:
    """Splits this process's part of a batch over its devices: [b, ...] -> [devices, b / devices, ...]."""
    if self.axis_name is None:
      return batch
    count = len(self._own)
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)

  def replicate(self, tree: Any) -> Any:
    """Transfers arrays to every device once, so that no step has to transfer them."""
    return _replicate(tree, self._own)

  def stack(self, trees: Sequence[Any]) -> Any:
    """Returns the tree of the only replica, unchanged."""
    (tree,) = trees
    return tree

  def shard_batches(self, batches: Sequence[Any]) -> Any:
    """Splits the batch of the only replica over the devices."""
    return self.split(self.stack(batches))

  def put_states(self, trees: Sequence[Any]) -> Any:
    """Transfers the state of the only replica to every device."""
    return self.replicate(self.stack(trees))

  def select_replica(self, tree: Any, number: int) -> Any:
    """Returns the tree unchanged: there is only one replica."""
    assert number == 0
    return tree

  def peak_memory(self) -> int | None:
    """Returns the largest peak memory of any device so far, in bytes; None if the backend does not report it."""
    return _peak_memory(self._own)


class Replicas:
  """Several independent replicas, distributed over the devices; vmap if there are several on a device.

  Arrays of the replicas are stacked to [devices, replicas per device, ...], without axes of length 1. There are no
  collectives. If the replicas do not fill the devices evenly, the last replica is repeated, and the results of the
  copies are ignored.

  Args:
    together: Number of parallel replicas, 1 or more.
    devices: Available devices, of which at most one per replica is used; default all local devices.
  """

  axis_name = None
  process = (0, 1)

  def __init__(self, together: int, devices: Sequence[jax.Device] | None = None):
    available = list(jax.local_devices() if devices is None else devices)
    self.together = together
    # Replicas per device, rounded up; then as many devices as that requires.
    per_device = -(-together // len(available))
    self.devices = available[: -(-together // per_device)]
    self._shape = (len(self.devices), per_device)

  def compile_train(self, step: Callable[..., Any], identity: str) -> Program | CachedProgram:
    """Compiles (state, resident, batch, context) -> (state, metrics); all arguments but `resident` are stacked."""
    return self._map(step, (0, None, 0, 0), identity, donate=True)

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Program | CachedProgram:
    """Compiles (variables, resident, batch) -> (sums, probabilities); all but `resident` are stacked."""
    return self._map(step, (0, None, 0), identity)

  def stack(self, trees: Sequence[Any]) -> Any:
    """Stacks host trees, one for each of at most `together` replicas."""
    num_devices, per_device = self._shape
    # The last tree fills the missing positions. [...] per replica -> [devices, replicas per device, ...]
    padded = [*trees, *[trees[-1]] * (num_devices * per_device - len(trees))]
    axes = tuple(n for n in self._shape if n > 1)
    return jax.tree.map(lambda *x: np.stack(x).reshape((*axes, *np.shape(x[0]))), *padded)

  def shard_batches(self, batches: Sequence[Any]) -> Any:
    """Stacks host batches, one for each replica."""
    return self.stack(batches)

  def put_states(self, trees: Sequence[Any]) -> Any:
    """Stacks the trees of all replicas and transfers each to its device."""
    # Stacked on the host, because the trees may be on different devices.
    stacked = self.stack(jax.device_get(list(trees)))
    if len(self.devices) == 1:
      return jax.device_put(stacked, self.devices[0])
    return jax.device_put(stacked, NamedSharding(_mesh(self.devices), PartitionSpec(AXIS)))

  def replicate(self, tree: Any) -> Any:
    """Transfers arrays that all replicas share to every device once."""
    return _replicate(tree, self.devices)

  def select_replica(self, tree: Any, number: int) -> Any:
    """Returns one replica's part of a stacked tree."""
    # (device, position on the device), without the axes of length 1
    index = tuple(i for i, n in zip(divmod(number, self._shape[1]), self._shape, strict=True) if n > 1)
    return jax.tree.map(lambda x: x[index], tree)

  def peak_memory(self) -> int | None:
    """Returns the largest peak memory of any device so far, in bytes; None if the backend does not report it."""
    return _peak_memory(self.devices)

  def _map(
    self, step: Callable[..., Any], axes: tuple[int | None, ...], identity: str, *, donate: bool = False
  ) -> Program | CachedProgram:
    num_devices, per_device = self._shape
    if per_device > 1:
      step = jax.vmap(step, in_axes=axes)
    # On one device no pmap is needed, and the trace can be stored on disk. The mapping is part of its identity.
    if num_devices == 1:
      return _cached_program(
        step, f"{identity}, mapped over {axes}" if per_device > 1 else identity, self.devices[0], donate=donate
      )
    donated = _donated_argnums(self.devices) if donate else ()
    return Program(jax.pmap(step, axis_name=AXIS, devices=self.devices, in_axes=axes, donate_argnums=donated))


def free_memory(device: jax.Device) -> int:
  """Returns the free memory of a device in bytes; for a CPU, that of the machine."""
  statistics = device.memory_stats()
  if statistics and "bytes_limit" in statistics:
    return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
  return _free_host_memory()


def _free_host_memory() -> int:
  try:  # Linux: memory that is available without swapping
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
  except (OSError, StopIteration):  # other systems: the total memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def replicate_globally(tree: Any) -> Any:
  """Returns a host tree, equal in every process, as replicated global arrays, of which each process saves a part."""
  sharding = NamedSharding(_mesh(jax.devices()), PartitionSpec())
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x)), tree)


def _cached_program(
  step: Callable[..., Any], identity: str, device: jax.Device, *, donate: bool = False
) -> CachedProgram:
  return CachedProgram(step, identity, device.platform, donate=donate and bool(_donated_argnums([device])))


def _donated_argnums(devices: Sequence[jax.Device]) -> tuple[int, ...]:
  # Not on a CPU: there a donated buffer that a checkpoint still reads would be copied anyway.
  return () if devices[0].platform == "cpu" else (0,)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
  # The mesh that pmap builds: with any other sharding, the arrays would be transferred at every call.
  return Mesh(np.array(devices), (AXIS,))


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  if len(devices) == 1:
    return jax.device_put(tree, devices[0])
  return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def _peak_memory(devices: Sequence[jax.Device]) -> int | None:
  statistics = [device.memory_stats() for device in devices]
  peaks = [s["peak_bytes_in_use"] for s in statistics if s and "peak_bytes_in_use" in s]
  return max(peaks) if peaks else None
