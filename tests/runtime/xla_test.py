"""How XLA is set up: options that yield to the user's, a cache that survives broken files, refused versions."""

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
# Compiles one program, and prints how often it was found in the cache and the options that XLA was given.
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
  """Starts the program as a user would, with a home of its own; returns hits, folder, flags and standard error."""
  kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
  environment = kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
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


def test_the_second_start_finds_the_programs_of_the_first_even_of_those_cut_short(tmp_path):
  hits, folder, _, _ = start(tmp_path)
  assert not hits
  assert folder.is_relative_to(tmp_path / "fer_jax")
  compiled = programs(folder)
  assert compiled
  hits, _, _, errors = start(tmp_path)
  assert (hits, errors) == (len(compiled), "")
  # As a process that was killed while it wrote leaves them: half a program, and no time of its last use.
  for program in compiled:
    program.write_bytes(program.read_bytes()[:100])
    program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
  hits, _, _, errors = start(tmp_path)
  assert (hits, errors) == (0, "")
  hits, *_ = start(tmp_path)
  assert hits == len(compiled)


def test_what_the_user_has_set_stays(tmp_path):
  mine = tmp_path / "mine"
  flag = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
  _, folder, flags, _ = start(tmp_path, XLA_FLAGS=flag, JAX_COMPILATION_CACHE_DIR=str(mine))
  assert (folder, flags) == (mine, flag)
  assert not (tmp_path / "fer_jax").exists()
  _, _, flags, _ = start(tmp_path, XLA_FLAGS="--xla_llvm_disable_expensive_passes=true")
  assert flags.split() == [
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
  ]


def test_a_folder_that_cannot_be_used_is_a_note(tmp_path):
  (tmp_path / "fer_jax").write_text("in the way")
  _, folder, _, errors = start(tmp_path)
  assert str(folder) == "None"
  (line,) = errors.splitlines()
  assert line.startswith("note: compiled programs are not cached")
  assert "JAX_COMPILATION_CACHE_DIR" in line


@pytest.mark.parametrize("version", sorted(xla.FAULTY))
def test_a_version_that_computes_wrong_results_is_refused(monkeypatch, version):
  monkeypatch.setattr(jaxlib, "__version__", version)
  with pytest.raises(UserError, match=rf"jaxlib {version}.*install another version"):
    xla.prepare()


def test_the_requirements_exclude_the_versions_that_are_refused():
  for file in ("requirements.txt", "requirements-cpu.txt", "pyproject.toml"):
    requirements = re.findall(r"\bjax(?:\[cuda12\])?>=0[^\s\"]+", (ROOT / file).read_text())
    assert requirements
    assert all(f"!={version}," in requirement for requirement in requirements for version in xla.FAULTY), file


def test_quick_compilation_draws_the_same_parameters(monkeypatch):
  assert xla.quick_compilation() is None, "the suite's own level of optimisation stays"
  monkeypatch.setenv("XLA_FLAGS", "")
  network = parse(load_config("configs/resnet.py:demo")).model.build(7, jnp.float32, None)
  arguments = jax.random.key(3), jnp.zeros((1, 16, 16, 1))
  usual = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
  drawn = jax.jit(network.init, compiler_options=xla.quick_compilation())(*arguments)
  expected = jax.jit(network.init, compiler_options=usual)(*arguments)
  jax.tree.map(np.testing.assert_array_equal, drawn, expected)
