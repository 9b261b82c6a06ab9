"""Provenance of a result: package versions, devices and commit."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
_COMPARED = ("torch", "equinox")  # packages that benchmarks compare with; recorded only if imported


def versions() -> dict[str, str]:
  """Returns the versions of Python, of the packages that a result depends on, and of those it is compared with."""
  packages = (*_PACKAGES, *(package for package in _COMPARED if package in sys.modules))
  return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}


def device(devices: Sequence[jax.Device]) -> str:
  """Describes the devices, for example "4 x NVIDIA H200" or "cpu (AMD EPYC, 2 cores)"."""
  kind = devices[0].device_kind
  if devices[0].platform == "cpu":
    kind = f"cpu ({_processor()})"
  return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def commit() -> str:
  """Returns the commit of the checkout that this package is imported from, or "unknown".

  "-dirty" is appended if tracked files of the package differ from that commit. Changed configs do not count, because a
  run records its complete config.
  """
  package = Path(__file__).resolve().parents[1]

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()

  try:
    head = git("rev-parse", "--short=12", "HEAD")
    return head + ("-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
  except (OSError, subprocess.SubprocessError):
    return "unknown"


def cores() -> int:
  """Returns the number of CPU cores available to this process."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_seconds() -> float | None:
  """Returns the seconds since this process was started, imports included; None if the system does not provide them."""
  try:  # Linux: start time in clock ticks since boot, and uptime in seconds
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
  except OSError:
    return None
  return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
  """Returns the processor's model name and the number of cores available to this process."""
  name = platform.processor() or platform.machine()
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    pass  # not Linux: keep the name given by `platform`
  return f"{name}, {cores()} cores"
