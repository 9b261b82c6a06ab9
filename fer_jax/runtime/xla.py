"""Configures XLA before JAX creates its devices: version check, options for CPUs, cache of compiled programs."""

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax
import jaxlib
from filelock import FileLock

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import cache_folder

# Faults of jaxlib versions on CPUs; `python -m tests.jax_versions` contains the reproducers.
FAULTY = {
  "0.10.2": "computes wrong sums on CPUs (jax#39103) and crashes in others (jax#39257, jax#40412)",
  "0.11.0": "crashes in sums over arrays of rank 7 and more on CPUs (jax#39257)",
}
# For the weight gradient of a convolution, YNNPACK takes 2 to 4 times as long as Eigen, so it is disabled for single
# convolutions. It stays enabled for matrix products and sums, where it is faster: without it, a step of the separable
# network takes 1.5 times as long.
_FUSION_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_FUSIONS = "-individual_convolution"
_LEVEL_FLAG = "xla_backend_optimization_level"
_CACHE_BYTES = 2 * 1024**3  # maximum per CPU type; the least recently used programs are deleted


def prepare() -> None:
  """Checks the version of jaxlib, sets XLA's options for CPUs and enables the persistent compilation cache.

  Must be called before the first use of a device; afterwards, options for CPUs have no effect. Options that the user
  has set in `XLA_FLAGS` or `JAX_COMPILATION_CACHE_DIR` are unchanged.

  Raises:
    UserError: This jaxlib computes wrong results.
  """
  if (fault := FAULTY.get(jaxlib.__version__)) is not None:
    raise UserError(
      f"jaxlib {jaxlib.__version__} {fault}: install another version, for example with "
      "pip install -r requirements-cpu.txt"
    )
  flags = os.environ.get("XLA_FLAGS", "")
  if _FUSION_FLAG not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --{_FUSION_FLAG}={_FUSIONS}".strip()
  unset = jax.config.values["jax_enable_compilation_cache"] and jax.config.values["jax_compilation_cache_dir"] is None
  # jaxlib 0.10 prints many messages when it reads the cache, unless TF_CPP_MIN_LOG_LEVEL was set before jax was
  # imported, as in fer_jax/__init__.py. If jax was imported before this package, the cache is not used.
  prints_messages = jaxlib.__version__.startswith("0.10.") and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3"
  if unset and not prints_messages and (cache := cache_folder()) is not None:
    _cache_programs(cache / "xla" / _cpu_type())


def quick_compilation() -> dict[str, int] | None:
  """Returns compiler options for a program that runs once, such as an initialisation; None for the defaults.

  On a CPU, LLVM's lowest level of optimisation reduces the time to compile the initialisation of a network to between
  20 and 40 %, and the initial parameters are identical, bit for bit. (Without any optimisation they differ in the last
  bits.) A level that the user has set in `XLA_FLAGS` is unchanged.
  """
  if jax.default_backend() != "cpu" or _LEVEL_FLAG in os.environ.get("XLA_FLAGS", ""):
    return None
  return {_LEVEL_FLAG: 1}


def _cache_programs(folder: Path) -> None:
  """Sets the folder of JAX's persistent compilation cache, after deleting incomplete programs from it."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # JAX writes a program first and its time of last use second. A program without the latter is incomplete: no other
    # process is writing one now, because writing requires the lock.
    with FileLock(folder / ".lockfile", timeout=10):
      for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
          program.unlink()
  except (OSError, TimeoutError) as error:
    print(
      f"note: compiled programs are not cached: {folder} cannot be used ({error}); "
      "set JAX_COMPILATION_CACHE_DIR to another folder",
      file=sys.stderr,
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
  # No minimum time: in addition to the steps, a start compiles dozens of programs in 40 ms each.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_type() -> str:
  """Returns a short digest of the CPU's instruction set: a program compiled for one CPU may not run on another."""
  features = platform.machine() + platform.processor()
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    features += next(line for line in lines if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    pass  # not Linux: only the description from `platform` is available
  return hashlib.sha256(features.encode()).hexdigest()[:16]
