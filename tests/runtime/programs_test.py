"""Stored traces of compiled programs: reuse, keys, damage and deletion."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fer_jax
from fer_jax.runtime import programs
from fer_jax.runtime.programs import CachedProgram, Program
from fer_jax.training.step import StepContext

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """Compilation cache of one test, in which traces are stored."""
  monkeypatch.setattr(programs, "stores_traces", True)
  before = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  yield tmp_path
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def traced():
  """List with one entry per trace of `doubled`."""
  return []


@pytest.fixture
def doubled(traced):
  def doubled(x, context):
    traced.append(1)
    progress, *rest = context
    return {"twice": 2 * x}, StepContext(progress + 1, *rest)

  return doubled


def context():
  return StepContext(np.float32(0.5), np.int32(7), np.float32(1))


def trace_files(folder):
  return sorted(folder.glob("traces/*"))


def test_a_second_program_reuses_the_trace(folder, doubled, traced):
  first = CachedProgram(doubled, "doubled", "cpu")(X, context())
  assert len(traced) == 1
  second = CachedProgram(doubled, "doubled", "cpu")
  found = second(X, context())
  assert len(traced) == 1
  assert jax.tree.structure(found) == jax.tree.structure(first), "the types of the result are restored"
  assert isinstance(found[1], StepContext)
  np.testing.assert_array_equal(found[0]["twice"], 2 * X)
  assert float(found[1].progress) == 1.5
  np.testing.assert_array_equal(second(X + 1, context())[0]["twice"], 2 * (X + 1))
  assert len(trace_files(folder)) == 1


def test_traces_once_per_shape(folder, doubled, traced):
  program = CachedProgram(doubled, "doubled", "cpu")
  for x in (X, X[:1], X, X[:1]):
    np.testing.assert_array_equal(program(x, context())[0]["twice"], 2 * x)
  assert len(traced) == 2
  assert len(trace_files(folder)) == 2


@pytest.mark.parametrize("change", ["identity", "shape", "dtype", "structure", "configuration", "source", "version"])
def test_every_dependency_is_part_of_the_key(folder, doubled, traced, monkeypatch, change):
  CachedProgram(doubled, "doubled", "cpu")(X, context())
  identity, x, other_context = "doubled", X, context()
  match change:
    case "identity":
      identity = "doubled, otherwise"
    case "shape":
      x = X[:1]
    case "dtype":
      x = X.astype(np.int32)
    case "structure":
      other_context = tuple(context())
    case "configuration":
      jax.config.update("jax_default_matmul_precision", "highest")
    case "source":
      monkeypatch.setattr(programs, "_source", lambda: "another")
    case "version":
      monkeypatch.setattr(programs.metadata, "version", lambda package: f"{package} 0")
  try:
    CachedProgram(doubled, identity, "cpu")(x, other_context)
  finally:
    jax.config.update("jax_default_matmul_precision", None)
  assert len(traced) == 2
  assert len(trace_files(folder)) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-1] + b"x", lambda _: b""])
def test_replaces_damaged_traces(folder, doubled, traced, damage):
  CachedProgram(doubled, "doubled", "cpu")(X, context())
  (path,) = trace_files(folder)
  path.write_bytes(damage(path.read_bytes()))
  for _ in range(2):  # the second call reads the trace that the first has written
    np.testing.assert_array_equal(CachedProgram(doubled, "doubled", "cpu")(X, context())[0]["twice"], 2 * X)
  assert len(traced) == 2


def test_deletes_the_least_recently_used_traces(folder, doubled, monkeypatch):
  CachedProgram(doubled, "0", "cpu")(X, context())
  size = trace_files(folder)[0].stat().st_size
  monkeypatch.setattr(programs, "_MAX_BYTES", 2.5 * size)
  (first,) = trace_files(folder)
  CachedProgram(doubled, "1", "cpu")(X, context())
  CachedProgram(doubled, "0", "cpu")(X, context())  # used again
  CachedProgram(doubled, "2", "cpu")(X, context())
  assert len(trace_files(folder)) == 2
  assert first in trace_files(folder)


@pytest.mark.parametrize("off", ["cache", "folder", "url", "switch"])
def test_stores_nothing_if_storage_is_disabled(folder, doubled, traced, monkeypatch, off):
  before = jax.config.values["jax_enable_compilation_cache"]
  if off == "cache":
    jax.config.update("jax_enable_compilation_cache", False)
  elif off == "folder":
    jax.config.update("jax_compilation_cache_dir", None)
  elif off == "url":
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/folder")
  else:
    monkeypatch.setattr(programs, "stores_traces", False)
  try:
    for _ in range(2):
      assert CachedProgram(doubled, "doubled", "cpu").shapes(X, context())[0]["twice"].shape == (2, 3)
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
  assert len(traced) == 2
  assert not trace_files(folder)


def test_mapped_programs_accept_several_structures():
  program = Program(jax.pmap(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), devices=jax.devices()[:2]))
  for structure in ({"a": X}, {"a": X, "b": X}, {"a": X}):
    jax.tree.map(lambda found: np.testing.assert_array_equal(found, X + 1), program(structure))


def test_shapes_need_no_compilation(doubled):
  program = CachedProgram(doubled, "doubled", "cpu")
  shapes, other_context = program.shapes(jax.ShapeDtypeStruct((2, 3), jnp.float32), context())
  assert (shapes["twice"].shape, shapes["twice"].dtype) == ((2, 3), jnp.float32)
  assert other_context.seed.dtype == jnp.int32


def test_the_source_digest_covers_the_package():
  package = Path(fer_jax.__file__).parent
  digest = hashlib.sha256()
  for file in sorted(package.rglob("*.py")):
    digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
  assert programs._source() == digest.hexdigest()
