"""Sets up XLA before JAX makes its devices: correct versions, options for CPUs, a cache of compiled programs."""

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax
import jaxlib
import platformdirs
from filelock import FileLock

from fer_jax.errors import UserError

# What each faulty jaxlib does on a CPU; `python -m tests.jax_versions` has the reproducers.
FAULTY = {
  "0.10.2": "computes wrong sums on CPUs (jax#39103) and crashes in others (jax#39257, jax#40412)",
  "0.11.0": "crashes in sums over arrays of rank 7 and more on CPUs (jax#39257)",
}
# YNNPACK takes 2 to 4 times as long for a convolution's weight gradient as Eigen does. It keeps matrix products and
# sums, in which it is the faster: without them a step of the separable network takes 1.5 times as long.
_FUSION_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_FUSIONS = "-individual_convolution"
_LEVEL_FLAG = "xla_backend_optimization_level"
_CACHE_BYTES = 2 * 1024**3  # for one type of CPU; the programs that were used least recently are dropped


def prepare() -> None:
  """Checks the version of jaxlib, chooses XLA's options for CPUs and turns on the persistent compilation cache.

  Call it before the first use of a device; later, options for CPUs have no effect. What the user has set, in
  `XLA_FLAGS` or `JAX_COMPILATION_CACHE_DIR`, stays as it is.

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
  cache = jax.config.values["jax_enable_compilation_cache"] and jax.config.values["jax_compilation_cache_dir"] is None
  # Where jax was imported before this package, jaxlib 0.10 would fill the screen at every start (fer_jax/__init__.py).
  loud = jaxlib.__version__.startswith("0.10.") and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3"
  if cache and not loud:
    _cache_programs(Path(platformdirs.user_cache_dir("fer_jax")) / "xla" / _cpu_type())


def quick_compilation() -> dict[str, int] | None:
  """Returns compiler options for a program that runs once, such as one that draws parameters; None for the defaults.

  On a CPU, LLVM's lowest level of optimisation takes a fifth to two fifths of the time to compile the random numbers of
  a network, and draws the same ones, bit for bit. (Without any optimisation they differ in the last bits.) A level
  that the user has set in `XLA_FLAGS` stays.
  """
  if jax.default_backend() != "cpu" or _LEVEL_FLAG in os.environ.get("XLA_FLAGS", ""):
    return None
  return {_LEVEL_FLAG: 1}


def _cache_programs(folder: Path) -> None:
  """Makes JAX keep compiled programs in a folder, and read them from there."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # JAX writes a program, then when it was used. A program without that was cut short: no other process is writing
    # one now, as each holds the lock while it does.
    with FileLock(folder / ".lockfile", timeout=10):
      for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
          program.unlink()
  except (OSError, TimeoutError) as error:
    print(
      f"note: compiled programs are not kept: {folder} cannot be used ({error}); "
      "JAX_COMPILATION_CACHE_DIR=FOLDER names another folder",
      file=sys.stderr,
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
  # All of them: besides the steps, a start has dozens of programs that compile in 40 ms each.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_type() -> str:
  """Returns a word for the CPU's instruction set: a program that was compiled for one may not run on another."""
  features = platform.machine() + platform.processor()
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    features += next(line for line in lines if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    pass  # not Linux: the platform's own words are all that there is
  return hashlib.sha256(features.encode()).hexdigest()[:16]
