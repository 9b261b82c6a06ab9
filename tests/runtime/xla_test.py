"""Configuration of XLA: the user's options, damaged cache files, and refused versions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from fer_jax.config.command_line import load_config
from fer_jax.config.parsing import parse
from fer_jax.runtime import xla
from fer_jax.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Compiles one program, and prints its cache hits, the cache folder and the options of XLA.
PROGRAM = """
import os, sys
from fer_jax.runtime import xla
xla.prepare()
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4))).block_until_ready()
print(len(hits), jax.config.values["jax_compilation_cache_dir"], os.environ["XLA_FLAGS"], sep="|")
"""


def start(home, **variables):
  """Runs PROGRAM with a separate home folder; returns cache hits, cache folder, flags and standard error."""
  inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
  environment = inherited | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "HOME": str(home),
    "XDG_CACHE_HOME": str(home),
  }
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env=environment | variables,
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  hits, folder, flags = done.stdout.strip().split("|")
  return int(hits), Path(folder), flags, done.stderr


def programs(folder):
  return sorted(folder.glob("*-cache"))


def test_reuses_cached_programs_and_replaces_incomplete_ones(tmp_path):
  hits, folder, _, _ = start(tmp_path)
  assert not hits
  assert folder.is_relative_to(tmp_path / "fer_jax")
  compiled = programs(folder)
  assert compiled
  hits, _, _, errors = start(tmp_path)
  assert (hits, errors) == (len(compiled), "")
  # State after a process was killed while writing: an incomplete program without its time of last use.
  for program in compiled:
    program.write_bytes(program.read_bytes()[:100])
    program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
  hits, _, _, errors = start(tmp_path)
  assert (hits, errors) == (0, "")
  hits, *_ = start(tmp_path)
  assert hits == len(compiled)


def test_preserves_options_of_the_user(tmp_path):
  user_folder = tmp_path / "mine"
  flag = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
  _, folder, flags, _ = start(tmp_path, XLA_FLAGS=flag, JAX_COMPILATION_CACHE_DIR=str(user_folder))
  assert (folder, flags) == (user_folder, flag)
  assert not (tmp_path / "fer_jax").exists()
  _, _, flags, _ = start(tmp_path, XLA_FLAGS="--xla_llvm_disable_expensive_passes=true")
  assert flags.split() == [
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
  ]


def test_prints_a_note_if_the_cache_folder_is_unusable(tmp_path):
  (tmp_path / "fer_jax").write_text("in the way")
  _, folder, _, errors = start(tmp_path)
  assert str(folder) == "None"
  (line,) = errors.splitlines()
  assert line.startswith("note: compiled programs are not cached")
  assert "JAX_COMPILATION_CACHE_DIR" in line


@pytest.mark.parametrize("version", sorted(xla.FAULTY))
def test_rejects_faulty_versions(monkeypatch, version):
  monkeypatch.setattr(jaxlib, "__version__", version)
  with pytest.raises(UserError, match=rf"jaxlib {version}.*install another version"):
    xla.prepare()


def test_requirements_exclude_the_faulty_versions():
  for file in ("requirements.txt", "requirements-cpu.txt", "pyproject.toml"):
    requirements = re.findall(r"\bjax(?:\[cuda12\])?>=0[^\s\"]+", (ROOT / file).read_text())
    assert requirements
    assert all(f"!={version}," in requirement for requirement in requirements for version in xla.FAULTY), file


def test_quick_compilation_gives_the_same_parameters(monkeypatch):
  assert xla.quick_compilation() is None, "the optimisation level of the test suite is kept"
  monkeypatch.setenv("XLA_FLAGS", "")
  network = parse(load_config("configs/resnet.py:demo")).model.build(7, jnp.float32, None)
  arguments = jax.random.key(3), jnp.zeros((1, 16, 16, 1))
  default_options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
  quick = jax.jit(network.init, compiler_options=xla.quick_compilation())(*arguments)
  expected = jax.jit(network.init, compiler_options=default_options)(*arguments)
  jax.tree.map(np.testing.assert_array_equal, quick, expected)
