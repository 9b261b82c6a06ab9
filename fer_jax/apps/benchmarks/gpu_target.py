"""GPUs that programs can be compiled for on a machine without one, and their peak rates."""

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies

from fer_jax.runtime.errors import UserError

_FOLDER = Path(__file__).parent / "gpu_targets"
_PACKAGES = ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc")


class GpuTarget(NamedTuple):
  """A GPU; its rates are those of the data sheet, which real programs do not reach.

  Attributes:
    name: Name of its file in `gpu_targets`, the description of the GPU that XLA reads.
    peak: Floating-point operations per second in products and convolutions of dense matrices, by dtype in HLO. XLA
      computes those of float32 with TensorFloat-32 by default.
  """

  name: str
  peak: Mapping[str, float]

  @property
  def description(self) -> str:
    """Content of the file."""
    return _read(self.name)

  @property
  def memory(self) -> int:
    """Bytes of memory."""
    return self._number("device_memory_size")

  @property
  def bandwidth(self) -> int:
    """Bytes of memory that are read or written per second."""
    return self._number("memory_bandwidth")

  def _number(self, key: str) -> int:
    match = re.search(rf"\b{key}: (\d+)", self.description)
    assert match is not None
    return int(match[1])


@functools.cache
def _read(name: str) -> str:
  return (_FOLDER / f"{name}.txtpb").read_text(encoding="ascii")


TARGETS = {
  "h100": GpuTarget("h100", {"f32": 494e12, "bf16": 989e12, "f16": 989e12}),  # SXM5
  "a100": GpuTarget("a100", {"f32": 156e12, "bf16": 312e12, "f16": 312e12}),  # SXM4, 80 GB
  "l4": GpuTarget("l4", {"f32": 60e12, "bf16": 121e12, "f16": 121e12}),
}


def absent_devices(target: GpuTarget, count: int) -> list[jax.Device]:
  """Returns devices of one process that can be compiled for, but not used.

  Args:
    target: GPU.
    count: Number of devices.

  Raises:
    UserError: The packages of XLA for CUDA are not installed.
  """
  if not is_installed():
    raise UserError("compiling for a GPU needs XLA for CUDA, which is not installed: pip install 'fer_jax[gpu-aot]'")
  topology = topologies.get_topology_desc(
    platform="cuda", topology_name="", target_config=target.description, topology=f"1x1x{count}"
  )
  return list(topology.devices)


def is_installed() -> bool:
  """Whether the packages that compile for CUDA are installed; a GPU and its driver are not needed."""
  try:
    return all(importlib.util.find_spec(package) is not None for package in _PACKAGES)
  except ModuleNotFoundError:  # of a parent package
    return False
