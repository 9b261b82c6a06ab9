"""Compiled functions whose traces are stored on disk, so that later processes need not trace and lower them again.

JAX's persistent compilation cache saves the time of XLA. To compute the key of that cache, JAX first has to trace and
lower the Python function, which takes seconds for a training step. This module stores the lowered function
(`jax.export`) in a folder next to the compiled programs. Its key contains everything that the trace depends on.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

# Packages whose versions are part of a trace's key.
_PACKAGES = ("jax", "jaxlib", "flax", "optax")
_FOLDER = "traces"  # inside the folder of the compilation cache
_MAX_BYTES = 256 * 1024**2  # maximum size of all traces
_CHECKSUM_BYTES = hashlib.sha256().digest_size

# Set to False by code that modifies this package at run time, as tests do: the key contains the source on disk only.
stores_traces = True


class Program:
  """A function of arrays that is compiled at its first call for arguments of given shapes and dtypes.

  Args:
    function: Function from `jax.jit` or `jax.pmap`.
  """

  def __init__(self, function: Any):
    self._function = function
    self._compiled: dict[Any, Any] = {}

  def __call__(self, *arguments: Any) -> Any:
    """Runs the function."""
    _, signature = _signature(arguments)
    if signature not in self._compiled:
      self.prepare(*arguments)
    return self._compiled[signature](*arguments)

  def prepare(self, *arguments: Any) -> int:
    """Compiles for arguments of these shapes; returns the memory on each device in bytes, 0 if it is not reported."""
    compiled = self._function.lower(*arguments).compile()
    release_memory()
    self._compiled[_signature(arguments)[1]] = compiled
    return _memory_bytes(compiled)


class _Trace(NamedTuple):
  """A function traced for arguments of given shapes.

  Attributes:
    exported: Exported function from the leaves of the arguments to the leaves of the result.
    structure: Tree structure of the result.
  """

  exported: export.Exported
  structure: Any


class CachedProgram:
  """A function of arrays for one device, compiled at its first call, whose trace is stored for later processes.

  Like a function from `jax.jit`, it is compiled again for arguments of other shapes. No trace is stored if the
  compilation cache is disabled.

  Args:
    function: Pure function to compile; it must be the same in every process for the same `identity`.
    identity: Text that identifies the function and everything that it closes over. The key of a trace also contains the
      source of this package, the versions of the packages it is traced with, JAX's configuration and the shapes and
      dtypes of the arguments.
    platform: Platform of the device, such as "cpu".
    donate: Whether the buffers of the first argument are donated.
    compiler_options: Compiler options for XLA.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    identity: str,
    platform: str,
    *,
    donate: bool = False,
    compiler_options: dict[str, Any] | None = None,
  ):
    self._function, self._identity, self._platform = function, identity, platform
    self._donate, self._compiler_options = donate, compiler_options
    self._traces: dict[Any, _Trace] = {}
    self._compiled: dict[Any, Any] = {}

  def __call__(self, *arguments: Any) -> Any:
    """Runs the function."""
    leaves, signature = _signature(arguments)
    if signature not in self._compiled:
      self.prepare(*arguments)
    return jax.tree.unflatten(self._traces[signature].structure, self._compiled[signature](*leaves))

  def shapes(self, *arguments: Any) -> Any:
    """Returns the shapes of the result for these arguments, as a tree of `jax.ShapeDtypeStruct`; compiles nothing."""
    trace = self._trace(_signature(arguments)[1])
    return jax.tree.unflatten(
      trace.structure, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in trace.exported.out_avals]
    )

  def prepare(self, *arguments: Any) -> int:
    """Compiles for arguments of these shapes; returns the memory on the device in bytes, 0 if it is not reported."""
    _, signature = _signature(arguments)
    self._compiled[signature] = self.lower(*arguments).compile(self._compiler_options)
    release_memory()
    return _memory_bytes(self._compiled[signature])

  def lower(self, *arguments: Any) -> jax.stages.Lowered:
    """Lowers the function for arguments of these shapes, and for the device of their shardings if they have some."""
    leaves, signature = _signature(arguments)
    # The lowered function takes leaves: those of the first argument come first.
    donated = tuple(range(len(jax.tree.leaves(arguments[0])))) if self._donate else ()
    return jax.jit(self._trace(signature).exported.call, donate_argnums=donated).lower(*leaves)

  def _trace(self, signature: Any) -> _Trace:
    if signature not in self._traces:
      path = _path(self._identity, self._platform, repr(signature))
      trace = _read(path) if path is not None else None
      if trace is None:
        structure, shapes = signature
        trace = _trace_function(self._function, structure, shapes, self._platform)
        if path is not None:
          _write(path, trace)
      self._traces[signature] = trace
    return self._traces[signature]


def _signature(arguments: Any) -> tuple[list[Any], tuple[Any, tuple[tuple[tuple[int, ...], np.dtype], ...]]]:
  """Returns the leaves of the arguments and the key of a program for them: (structure, shapes and dtypes)."""
  leaves, structure = jax.tree.flatten(arguments)
  # With x64 disabled, a float64 NumPy array is a float32 argument.
  canonical = jax.dtypes.canonicalize_dtype
  return leaves, (structure, tuple((np.shape(leaf), canonical(leaf.dtype)) for leaf in leaves))


def _trace_function(
  function: Callable[..., Any], structure: Any, shapes: Sequence[tuple[tuple[int, ...], np.dtype]], platform: str
) -> _Trace:
  # The structure of the result is a side effect of tracing: the exported function itself handles leaves only.
  structures: list[Any] = []

  def on_leaves(*leaves: jax.Array) -> list[jax.Array]:
    leaves_of_result, result_structure = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
    structures.append(result_structure)
    return leaves_of_result

  on_leaves.__name__ = getattr(function, "__name__", "program")  # name in profiles and of the cached program
  if platform == jax.default_backend():
    platform = export.default_export_platform()
  platforms = ["cuda" if platform == "gpu" else platform]  # of a GPU that is not here
  exported = export.export(jax.jit(on_leaves), platforms=platforms)(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
  return _Trace(exported, structures[-1])


def _path(*identity: str) -> Path | None:
  """Returns the path of the trace with that identity; None if traces are not stored."""
  folder = jax.config.values["jax_compilation_cache_dir"]
  if not (stores_traces and jax.config.values["jax_enable_compilation_cache"] and folder) or "://" in folder:
    return None
  # A URL instead of a folder, such as gs://, is supported by JAX's cache but not here.
  settings = repr(sorted(jax.config.values.items()))
  digest = hashlib.sha256(repr((identity, settings, _source(), *map(metadata.version, _PACKAGES))).encode())
  return Path(folder) / _FOLDER / digest.hexdigest()


@functools.cache
def _source() -> str:
  """Returns a digest of the names and contents of this package's source files."""
  digest = hashlib.sha256()
  package = Path(__file__).parents[1]
  for file in sorted(package.rglob("*.py")):
    digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
  return digest.hexdigest()


def _read(path: Path) -> _Trace | None:
  """Returns the trace in a file; None if the file is missing or incomplete."""
  try:
    content = path.read_bytes()
    os.utime(path)  # time of last use: the least recently used traces are deleted first
  except OSError:
    return None
  checksum, body = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
  if hashlib.sha256(body).digest() != checksum:
    return None
  program, structure = pickle.loads(body)
  return _Trace(export.deserialize(bytearray(program)), structure)


def _write(path: Path, trace: _Trace) -> None:
  """Writes a trace atomically, and deletes the least recently used traces beyond the maximum size."""
  body = pickle.dumps((bytes(trace.exported.serialize()), trace.structure))
  with contextlib.suppress(OSError):  # a full disk: JAX, which writes there too, warns; the next process traces again
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      file.write(hashlib.sha256(body).digest() + body)
    os.replace(file.name, path)
    statistics = {trace_file: trace_file.stat() for trace_file in path.parent.iterdir()}
    total = 0
    for trace_file in sorted(statistics, key=lambda trace_file: statistics[trace_file].st_mtime, reverse=True):
      total += statistics[trace_file].st_size
      if total > _MAX_BYTES:
        trace_file.unlink()


def release_memory() -> None:
  """Returns freed memory to the system: after a compilation, the C library keeps hundreds of megabytes of it."""
  with contextlib.suppress(AttributeError):  # only glibc has this function; other libraries keep less memory
    ctypes.CDLL(None).malloc_trim(0)


def _memory_bytes(compiled: Any) -> int:
  analysis = compiled.memory_analysis()
  if analysis is None:
    return 0
  return int(analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes)
