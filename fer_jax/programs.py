"""Compiled functions whose traces are kept on disk, so that a later process neither traces nor lowers them again.

JAX's persistent compilation cache spares a process XLA's work. Before it can look there, JAX has traced the Python
function and lowered it: for a training step, seconds. What is kept here is the function in the form that XLA is given
(`jax.export`), in a folder beside the compiled programs, found by everything that the trace depends on.
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

_PACKAGES = ("jax", "jaxlib", "flax", "optax")
_FOLDER = "traces"  # within the folder of the compilation cache
_MOST_BYTES = 256 * 1024**2
_CHECKSUM_BYTES = hashlib.sha256().digest_size

# Whoever changes this package while it runs, as tests do, sets it to False: a trace is found by the source's text.
keeps_traces = True


class Program:
  """A function of arrays, compiled at its first call, and once more for arguments of other shapes.

  Args:
    function: From `jax.jit` or `jax.pmap`.
  """

  def __init__(self, function: Any):
    self._function = function
    self._compiled: dict[Any, Any] = {}

  def __call__(self, *arguments: Any) -> Any:
    """Runs the function."""
    _, kind = _kind_of(arguments)
    if kind not in self._compiled:
      self.prepare(*arguments)
    return self._compiled[kind](*arguments)

  def prepare(self, *arguments: Any) -> int:
    """Compiles for arguments of these shapes; returns the bytes on each device while it runs, 0 where unknown."""
    compiled = self._function.lower(*arguments).compile()
    return_memory()
    self._compiled[_kind_of(arguments)[1]] = compiled
    return _bytes_of(compiled)


class _Trace(NamedTuple):
  """A function traced for arguments of certain shapes.

  Attributes:
    exported: The function over the leaves of its arguments, to the leaves of what it returns.
    structure: Of what it returns.
  """

  exported: export.Exported
  structure: Any


class KeptProgram:
  """A function of arrays for one device, compiled at its first call, whose trace is kept for later processes.

  Like a function from `jax.jit`, it is compiled once more for arguments of other shapes. Nothing is kept where the
  compilation cache is off.

  Args:
    function: To compile: pure, and the same in every process for the same `identity`.
    identity: Says which function it is, with all that it closes over. The package's own source, the versions of what
      it is traced with, JAX's configuration and the arguments' shapes are taken into account beside it.
    platform: Of the device, such as "cpu".
    donate: Whether the first argument's buffers may be written to.
    compiler_options: For XLA.
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
    leaves, kind = _kind_of(arguments)
    if kind not in self._compiled:
      self.prepare(*arguments)
    return jax.tree.unflatten(self._traces[kind].structure, self._compiled[kind](*leaves))

  def shapes(self, *arguments: Any) -> Any:
    """Returns what the function returns for arguments of these shapes, as `jax.ShapeDtypeStruct`."""
    trace = self._trace(_kind_of(arguments)[1])
    return jax.tree.unflatten(
      trace.structure, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in trace.exported.out_avals]
    )

  def prepare(self, *arguments: Any) -> int:
    """Compiles for arguments of these shapes; returns the bytes on the device while it runs, 0 where unknown."""
    leaves, kind = _kind_of(arguments)
    donated = tuple(range(len(jax.tree.leaves(arguments[0])))) if self._donate else ()
    lowered = jax.jit(self._trace(kind).exported.call, donate_argnums=donated).lower(*leaves)
    self._compiled[kind] = lowered.compile(self._compiler_options)
    return_memory()
    return _bytes_of(self._compiled[kind])

  def _trace(self, kind: Any) -> _Trace:
    if kind not in self._traces:
      path = _path(self._identity, self._platform, repr(kind))
      trace = _read(path) if path is not None else None
      if trace is None:
        structure, shapes = kind
        trace = _traced(self._function, structure, shapes, self._platform)
        if path is not None:
          _write(path, trace)
      self._traces[kind] = trace
    return self._traces[kind]


def _kind_of(arguments: Any) -> tuple[list[Any], tuple[Any, tuple[tuple[tuple[int, ...], np.dtype], ...]]]:
  """Returns the leaves of arguments, and all that a program for them depends on: structure, shapes and dtypes."""
  leaves, structure = jax.tree.flatten(arguments)
  canonical = jax.dtypes.canonicalize_dtype
  return leaves, (structure, tuple((np.shape(leaf), canonical(leaf.dtype)) for leaf in leaves))


def _traced(
  function: Callable[..., Any], structure: Any, shapes: Sequence[tuple[tuple[int, ...], np.dtype]], platform: str
) -> _Trace:
  returned: list[Any] = []

  def of_leaves(*leaves: jax.Array) -> list[jax.Array]:
    found, its_structure = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
    returned.append(its_structure)
    return found

  of_leaves.__name__ = getattr(function, "__name__", "program")  # what profiles and cached programs are called
  platforms = [export.default_export_platform() if platform == jax.default_backend() else platform]
  exported = export.export(jax.jit(of_leaves), platforms=platforms)(*(jax.ShapeDtypeStruct(*each) for each in shapes))
  return _Trace(exported, returned[-1])


def _path(*identity: str) -> Path | None:
  """Returns where the trace of that identity is kept; None where nothing is kept on this machine."""
  folder = jax.config.values["jax_compilation_cache_dir"]
  if not (keeps_traces and jax.config.values["jax_enable_compilation_cache"] and folder) or "://" in folder:
    return None
  settings = repr(sorted(jax.config.values.items()))
  digest = hashlib.sha256(repr((identity, settings, _source(), *map(metadata.version, _PACKAGES))).encode())
  return Path(folder) / _FOLDER / digest.hexdigest()


@functools.cache
def _source() -> str:
  """Returns a digest of this package's source."""
  digest = hashlib.sha256()
  package = Path(__file__).parent
  for file in sorted(package.rglob("*.py")):
    digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
  return digest.hexdigest()


def _read(path: Path) -> _Trace | None:
  """Returns what was written there; None where nothing was, or not all of it."""
  try:
    content = path.read_bytes()
    os.utime(path)  # when it was used: what was not for long goes first
  except OSError:
    return None
  checksum, body = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
  if hashlib.sha256(body).digest() != checksum:
    return None
  program, structure = pickle.loads(body)
  return _Trace(export.deserialize(bytearray(program)), structure)


def _write(path: Path, trace: _Trace) -> None:
  """Writes a trace whole or not at all, and drops the oldest ones beyond the bound."""
  body = pickle.dumps((bytes(trace.exported.serialize()), trace.structure))
  with contextlib.suppress(OSError):  # a full disk: JAX, which writes there too, warns; the next start traces again
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      file.write(hashlib.sha256(body).digest() + body)
    os.replace(file.name, path)
    used = {each: each.stat() for each in path.parent.iterdir()}
    kept = 0
    for each in sorted(used, key=lambda each: used[each].st_mtime, reverse=True):
      kept += used[each].st_size
      if kept > _MOST_BYTES:
        each.unlink()


def return_memory() -> None:
  """Gives back to the system what was freed: after compilation, hundreds of megabytes that the C library would keep."""
  with contextlib.suppress(AttributeError):  # there is no such function outside glibc, and other libraries keep less
    ctypes.CDLL(None).malloc_trim(0)


def _bytes_of(compiled: Any) -> int:
  found = compiled.memory_analysis()
  if found is None:
    return 0
  return int(found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes)
