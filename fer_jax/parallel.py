"""Where steps run: on one device by jit, on several by pmap, several trainings at once. The only file that says pmap.

A placement is for one training over all devices (`Devices`), or for several, each on a part of one (`Replicas`). Both
have the same methods, so that whoever drives a training need not know which it is.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax import provenance
from fer_jax.errors import UserError
from fer_jax.programs import KeptProgram, Program

AXIS = "devices"


def all_devices(trainings: int = 1) -> list[jax.Device]:
  """Returns the devices of all processes; before the first is touched, makes one of each core for several trainings.

  The step of a small network keeps no two cores of a CPU busy all the time; two steps do.

  Args:
    trainings: that will be dealt over them.
  """
  if trainings > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    with contextlib.suppress(RuntimeError):  # the devices are known already, and stay what they are
      jax.config.update("jax_num_cpu_devices", min(trainings, provenance.cores()))
  return jax.devices()


class Placement(Protocol):
  """Trainings side by side: how their steps are compiled, and how their arrays are laid out.

  Attributes:
    devices: that are used.
    together: how many trainings.
  """

  devices: list[jax.Device]
  together: int

  @property
  def process(self) -> tuple[int, int]:
    """The part of every batch that this process deals: its number, and how many parts there are."""

  @property
  def axis_name(self) -> str | None:
    """The mapped axis that a step's collectives reduce over; None where a training has a device to itself."""

  def compile_train(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (state, resident, batch, moment) -> (state, metrics), laid out by the methods below.

    `identity` says which step it is; on one device its trace is kept on disk by it, see `KeptProgram`.
    """

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (variables, resident, batch) -> (sums, probabilities of the whole batch), likewise."""

  def stack(self, trees: Sequence[Any]) -> Any:
    """Lays out a small host tree for each training, at most `together`: a step's moment, say."""

  def deal(self, batches: Sequence[Any]) -> Any:
    """Lays out a host batch for each training: this process's part of it."""

  def place(self, trees: Sequence[Any]) -> Any:
    """Puts a state for each training on the devices."""

  def replicate(self, tree: Any) -> Any:
    """Puts arrays that all trainings share on every device once, so that no step has to send them again."""

  def take(self, tree: Any, number: int) -> Any:
    """Returns one training's part of what was placed or came out of a step; of a tree on the host, without a copy."""

  def peak_memory(self) -> int | None:
    """Returns the largest peak of device memory so far in bytes; None where the backend does not say."""


class Devices:
  """One training over the local devices, each of which takes its share of every batch.

  State is never stacked: a mapped step takes it and returns it whole (`in_axes=None`, `out_axes=None`), on
  each device the same.

  Where the devices belong to several processes, each process deals its own share of a batch over its own devices, and
  what every device has the same of is, for a process, an array of its own devices.

  Args:
    devices: which, in the order of their processes, equally many of each; default all local ones.
  """

  together = 1

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    self.devices = list(jax.local_devices() if devices is None else devices)
    self._own = [each for each in self.devices if each.process_index == jax.process_index()]

  @property
  def process(self) -> tuple[int, int]:
    """The part of a batch that this process deals: its number, and how many parts there are."""
    parts = len(self.devices) // len(self._own)
    return (jax.process_index() if parts > 1 else 0), parts

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

  def compile_train(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (state, resident, batch, moment) -> (state, metrics); the batch is from `split`."""
    if self.axis_name is None:
      return _kept(step, identity, self.devices[0], donate=True)
    return jax.pmap(
      step,
      axis_name=self.axis_name,
      devices=self.devices,
      in_axes=(None, None, 0, None),
      out_axes=(None, None),
      donate_argnums=_donated(self.devices),
    )

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Callable[..., Any]:
    """Compiles (variables, resident, batch) -> (sums, probabilities); the batch is from `split`."""
    if self.axis_name is None:
      return _kept(step, identity, self.devices[0])
    return jax.pmap(
      step, axis_name=self.axis_name, devices=self.devices, in_axes=(None, None, 0), out_axes=(None, None)
    )

  def split(self, batch: Any) -> Any:
    """Deals the rows of this process's part of a batch over its devices: [b, ...] -> [devices, b / devices, ...]."""
    if self.axis_name is None:
      return batch
    count = len(self._own)
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)

  def replicate(self, tree: Any) -> Any:
    """Puts arrays on every device once, so that no step has to send them again."""
    return _replicate(tree, self._own)

  def stack(self, trees: Sequence[Any]) -> Any:
    """Returns the one training's tree."""
    (tree,) = trees
    return tree

  def deal(self, batches: Sequence[Any]) -> Any:
    """Splits the one training's batch."""
    return self.split(self.stack(batches))

  def place(self, trees: Sequence[Any]) -> Any:
    """Puts the one training's state on every device."""
    return self.replicate(self.stack(trees))

  def take(self, tree: Any, number: int) -> Any:
    """Returns the tree: there is one training."""
    assert number == 0
    return tree

  def peak_memory(self) -> int | None:
    """Returns the largest peak of device memory so far in bytes; None where the backend does not say."""
    return _peak_memory(self._own)


class Replicas:
  """Several trainings, dealt over the local devices, side by side (vmap) where a device has more than one.

  Their arrays are stacked: [devices, trainings of a device, ...], without an axis that would be 1 long. No training
  knows of another, and no collective is run. Where trainings do not fill the devices evenly, the last one is
  repeated, and what comes of the repetition is never read.

  Args:
    together: how many trainings, 1 or more.
    devices: which; default all local ones. No more are used than there are trainings.
  """

  axis_name = None
  process = (0, 1)

  def __init__(self, together: int, devices: Sequence[jax.Device] | None = None):
    everything = list(jax.local_devices() if devices is None else devices)
    self.together = together
    of_device = -(-together // len(everything))
    self.devices = everything[: -(-together // of_device)]
    self._shape = (len(self.devices), of_device)

  def compile_train(self, step: Callable[..., Any], identity: str) -> Program | KeptProgram:
    """Compiles (state, resident, batch, moment) -> (state, metrics); all but the data are stacked."""
    return self._map(step, (0, None, 0, 0), identity, donate=True)

  def compile_eval(self, step: Callable[..., Any], identity: str) -> Program | KeptProgram:
    """Compiles (variables, resident, batch) -> (sums, probabilities), stacked."""
    return self._map(step, (0, None, 0), identity)

  def stack(self, trees: Sequence[Any]) -> Any:
    """Stacks a host tree for each training, at most `together`."""
    spread, of_device = self._shape
    full = [*trees, *[trees[-1]] * (spread * of_device - len(trees))]
    axes = tuple(n for n in self._shape if n > 1)
    return jax.tree.map(lambda *x: np.stack(x).reshape((*axes, *np.shape(x[0]))), *full)

  def deal(self, batches: Sequence[Any]) -> Any:
    """Stacks a host batch for each training."""
    return self.stack(batches)

  def place(self, trees: Sequence[Any]) -> Any:
    """Stacks a tree for each training and puts each on its device."""
    stacked = self.stack(jax.device_get(list(trees)))
    if len(self.devices) == 1:
      return jax.device_put(stacked, self.devices[0])
    return jax.device_put(stacked, NamedSharding(_mesh(self.devices), PartitionSpec(AXIS)))

  def replicate(self, tree: Any) -> Any:
    """Puts arrays that all trainings share on every device once."""
    return _replicate(tree, self.devices)

  def take(self, tree: Any, number: int) -> Any:
    """Returns one training's part of a stacked tree."""
    index = tuple(i for i, n in zip(divmod(number, self._shape[1]), self._shape, strict=True) if n > 1)
    return jax.tree.map(lambda x: x[index], tree)

  def peak_memory(self) -> int | None:
    """Returns the largest peak of device memory so far in bytes; None where the backend does not say."""
    return _peak_memory(self.devices)

  def _map(
    self, step: Callable[..., Any], axes: tuple[int | None, ...], identity: str, *, donate: bool = False
  ) -> Program | KeptProgram:
    spread, of_device = self._shape
    if of_device > 1:
      step = jax.vmap(step, in_axes=axes)
    if spread == 1:
      return _kept(
        step, f"{identity}, mapped over {axes}" if of_device > 1 else identity, self.devices[0], donate=donate
      )
    donated = _donated(self.devices) if donate else ()
    return Program(jax.pmap(step, axis_name=AXIS, devices=self.devices, in_axes=axes, donate_argnums=donated))


def free_memory(device: jax.Device) -> int:
  """Returns the bytes that are left on a device; on a CPU, those of the machine."""
  statistics = device.memory_stats()
  if statistics and "bytes_limit" in statistics:
    return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
  return _free_host_memory()


def _free_host_memory() -> int:
  try:  # Linux: what could be had without swapping
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
  except (OSError, StopIteration):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def of_all_processes(tree: Any) -> Any:
  """Returns a host tree, the same in every process, as arrays of all devices: what orbax writes, a part each."""
  sharding = NamedSharding(_mesh(jax.devices()), PartitionSpec())
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x)), tree)


def _kept(step: Callable[..., Any], identity: str, device: jax.Device, *, donate: bool = False) -> KeptProgram:
  return KeptProgram(step, identity, device.platform, donate=donate and bool(_donated([device])))


def _donated(devices: Sequence[jax.Device]) -> tuple[int, ...]:
  # A donated buffer that a checkpoint still writes from would be copied on a CPU anyway.
  return () if devices[0].platform == "cpu" else (0,)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
  # The mesh that pmap builds: with any other sharding the arrays would travel at every call.
  return Mesh(np.array(devices), (AXIS,))


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  if len(devices) == 1:
    return jax.device_put(tree, devices[0])
  return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def _peak_memory(devices: Sequence[jax.Device]) -> int | None:
  statistics = [device.memory_stats() for device in devices]
  peaks = [s["peak_bytes_in_use"] for s in statistics if s and "peak_bytes_in_use" in s]
  return max(peaks) if peaks else None
