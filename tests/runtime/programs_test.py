"""Programs whose traces are kept: found again by all that they depend on, and by nothing else."""

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
  """A cache of the test's own, in which traces are kept."""
  monkeypatch.setattr(programs, "keeps_traces", True)
  before = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  yield tmp_path
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def traced():
  """Counts how often `doubled` is traced."""
  return []


@pytest.fixture
def doubled(traced):
  def doubled(x, moment):
    traced.append(1)
    progress, *rest = moment
    return {"twice": 2 * x}, StepContext(progress + 1, *rest)

  return doubled


def moment():
  return StepContext(np.float32(0.5), np.int32(7), np.float32(1))


def kept(folder):
  return sorted(folder.glob("traces/*"))


def test_a_second_program_of_the_same_identity_is_not_traced(folder, doubled, traced):
  first = CachedProgram(doubled, "doubled", "cpu")(X, moment())
  assert len(traced) == 1
  second = CachedProgram(doubled, "doubled", "cpu")
  found = second(X, moment())
  assert len(traced) == 1
  assert jax.tree.structure(found) == jax.tree.structure(first), "the types of what it returns come back"
  assert isinstance(found[1], StepContext)
  np.testing.assert_array_equal(found[0]["twice"], 2 * X)
  assert float(found[1].progress) == 1.5
  np.testing.assert_array_equal(second(X + 1, moment())[0]["twice"], 2 * (X + 1))
  assert len(kept(folder)) == 1


def test_one_program_takes_arguments_of_several_shapes(folder, doubled, traced):
  program = CachedProgram(doubled, "doubled", "cpu")
  for x in (X, X[:1], X, X[:1]):
    np.testing.assert_array_equal(program(x, moment())[0]["twice"], 2 * x)
  assert len(traced) == 2
  assert len(kept(folder)) == 2


@pytest.mark.parametrize("change", ["identity", "shape", "dtype", "structure", "configuration", "source", "version"])
def test_whatever_the_trace_depends_on_makes_it_another(folder, doubled, traced, monkeypatch, change):
  CachedProgram(doubled, "doubled", "cpu")(X, moment())
  identity, x, its_moment = "doubled", X, moment()
  match change:
    case "identity":
      identity = "doubled, otherwise"
    case "shape":
      x = X[:1]
    case "dtype":
      x = X.astype(np.int32)
    case "structure":
      its_moment = tuple(moment())
    case "configuration":
      jax.config.update("jax_default_matmul_precision", "highest")
    case "source":
      monkeypatch.setattr(programs, "_source", lambda: "another")
    case "version":
      monkeypatch.setattr(programs.metadata, "version", lambda package: f"{package} 0")
  try:
    CachedProgram(doubled, identity, "cpu")(x, its_moment)
  finally:
    jax.config.update("jax_default_matmul_precision", None)
  assert len(traced) == 2
  assert len(kept(folder)) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-1] + b"x", lambda _: b""])
def test_a_damaged_trace_is_made_anew(folder, doubled, traced, damage):
  CachedProgram(doubled, "doubled", "cpu")(X, moment())
  (path,) = kept(folder)
  path.write_bytes(damage(path.read_bytes()))
  for _ in range(2):  # the second finds what the first has written
    np.testing.assert_array_equal(CachedProgram(doubled, "doubled", "cpu")(X, moment())[0]["twice"], 2 * X)
  assert len(traced) == 2


def test_those_not_used_for_longest_make_room(folder, doubled, monkeypatch):
  CachedProgram(doubled, "0", "cpu")(X, moment())
  size = kept(folder)[0].stat().st_size
  monkeypatch.setattr(programs, "_MOST_BYTES", 2.5 * size)
  (first,) = kept(folder)
  CachedProgram(doubled, "1", "cpu")(X, moment())
  CachedProgram(doubled, "0", "cpu")(X, moment())  # used again
  CachedProgram(doubled, "2", "cpu")(X, moment())
  assert len(kept(folder)) == 2
  assert first in kept(folder)


@pytest.mark.parametrize("off", ["cache", "folder", "url", "switch"])
def test_nothing_is_kept_where_nothing_can_be(folder, doubled, traced, monkeypatch, off):
  before = jax.config.values["jax_enable_compilation_cache"]
  if off == "cache":
    jax.config.update("jax_enable_compilation_cache", False)
  elif off == "folder":
    jax.config.update("jax_compilation_cache_dir", None)
  elif off == "url":
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/folder")
  else:
    monkeypatch.setattr(programs, "keeps_traces", False)
  try:
    for _ in range(2):
      assert CachedProgram(doubled, "doubled", "cpu").shapes(X, moment())[0]["twice"].shape == (2, 3)
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
  assert len(traced) == 2
  assert not kept(folder)


def test_a_mapped_program_takes_arguments_of_several_structures():
  program = Program(jax.pmap(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), devices=jax.devices()[:2]))
  for structure in ({"a": X}, {"a": X, "b": X}, {"a": X}):
    jax.tree.map(lambda found: np.testing.assert_array_equal(found, X + 1), program(structure))


def test_shapes_are_known_before_anything_is_compiled(doubled):
  program = CachedProgram(doubled, "doubled", "cpu")
  shapes, its_moment = program.shapes(jax.ShapeDtypeStruct((2, 3), jnp.float32), moment())
  assert (shapes["twice"].shape, shapes["twice"].dtype) == ((2, 3), jnp.float32)
  assert its_moment.seed.dtype == jnp.int32


def test_the_source_is_that_of_the_whole_package():
  package = Path(fer_jax.__file__).parent
  digest = hashlib.sha256()
  for file in sorted(package.rglob("*.py")):
    digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
  assert programs._source() == digest.hexdigest()
