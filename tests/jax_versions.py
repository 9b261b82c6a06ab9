"""Tests every JAX version within the bounds of the requirements on this CPU: reproducers of faults and float64 steps.

  python -m tests.jax_versions --out=results/jax_versions.json

Each version is installed into a temporary folder, next to the packages of the current Python. A version that fails
must be added to `fer_jax.runtime.xla.FAULTY` and to the exclusions of the requirements.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax

from fer_jax.runtime import provenance
from fer_jax.runtime.errors import Failure, run
from fer_jax.runtime.files import write_text

ROOT = Path(__file__).parent.parent
LOWEST, BELOW = (0, 10), (0, 13)
_SECONDS = 60  # a reproducer takes two seconds; with a faulty version it may hang

# Each exits with status 0 if the result is right and 3 if it is wrong.
REPRODUCERS = {
  # A vmapped product of a matrix and a vector, then a sum, over more than 32,768 rows.
  "jax#39103": """
rows = 32_769
x = jnp.zeros((rows, 3)).at[:, 0].set(jnp.arange(rows))
norms = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
check(norms, np.arange(rows, dtype=np.float64) ** 2)
""",
  # A product of an array of rank 3 with one of rank 8, then a sum over one axis.
  "jax#39257": """
a, b = np.ones((10, 4, 6, 1, 1, 1, 1, 1), np.float32), np.ones((10, 4, 6, 9, 9, 9, 9, 9), np.float32)
check(jax.jit(lambda a, b: jnp.log(jnp.sum(a * b, axis=2)))(a, b), np.log(6.0))
""",
  # A product of arrays of rank 7, one axis of length 1, then a sum over another axis.
  "jax#40412": """
a, b = np.random.default_rng(0).standard_normal((2, 3, 1, 2, 2, 8, 8, 8), np.float32)
check(jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b), np.sum(np.float64(a) * b, axis=3))
""",
}
_SETUP = """
import sys
import jax, jax.numpy as jnp, numpy as np
from fer_jax.runtime import xla
xla.FAULTY.clear()
xla.prepare()
def check(found, expected):
  sys.exit(0 if np.allclose(found, expected, rtol=1e-5, atol=1e-5) else 3)
"""
# The float64 reference is thousands of single operations, compiled quickly; the steps use the default options.
_FLOAT64 = """
import os, sys
from tests import compilation
os.environ["XLA_FLAGS"] = compilation.FLAGS
import pytest
from fer_jax.runtime import xla
xla.FAULTY.clear()
sys.exit(pytest.main(["-q", "-m", "", "-p", "no:cacheprovider", "tests/float64_test.py"]))
"""


def main() -> None:
  """Tests the versions, prints one line for each, and writes the JSON file of the table."""
  parser = argparse.ArgumentParser(prog="python -m tests.jax_versions", description=__doc__.splitlines()[0])
  parser.add_argument("--versions", nargs="+", help="versions of jax (default: all that pip finds within the bounds)")
  parser.add_argument("--out", type=Path, help="JSON file for the table in docs/reliability.md")
  options = parser.parse_args()
  content: dict[str, Any] = {
    "what": "jax_versions",
    "device": provenance.device(jax.local_devices()[:1]),
    "versions": provenance.versions(),
    "commit": provenance.commit(),
    "seeds": [0],
    "rows": [],
  }
  with ThreadPoolExecutor(provenance.cores()) as pool:
    for done in as_completed(
      [pool.submit(check_version, version) for version in options.versions or available_versions()]
    ):
      row = done.result()
      print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
      content["rows"] = sorted([*content["rows"], row], key=lambda each: _numbers(each["name"]))
      if options.out:  # after each version: all of them take half an hour
        write_text(options.out, json.dumps(content, indent=2) + "\n")


def available_versions() -> list[str]:
  """Returns the versions of jax within the bounds that pip can install for this Python, oldest first."""
  listed = subprocess.run(
    [sys.executable, "-m", "pip", "index", "versions", "jax"], capture_output=True, text=True, check=False
  )
  found = re.search(r"Available versions: (.*)", listed.stdout)
  if found is None:
    raise Failure(f"pip lists no versions of jax: {listed.stderr.strip().splitlines()[-1:]}; is there a network?")
  return sorted((v for v in found[1].split(", ") if LOWEST <= _numbers(v) < BELOW), key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
  return tuple(map(int, version.split(".")))


def check_version(version: str) -> dict[str, Any]:
  """Installs a version of jax and returns the outcome of each program with it."""
  with tempfile.TemporaryDirectory() as folder:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    done = subprocess.run([*install, f"jax=={version}", f"jaxlib=={version}"], capture_output=True, check=False)
    if done.returncode:
      raise Failure(f"pip could not install jax {version}: {done.stderr.decode().strip()}")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    environment = inherited | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    outcome = {name: _outcome(_SETUP + program, environment, _SECONDS) for name, program in REPRODUCERS.items()}
    return {"name": version, **outcome, "float64": _outcome(_FLOAT64, environment, None)}


def _outcome(program: str, environment: dict[str, str], seconds: int | None) -> str:
  """Runs a program; returns its outcome in one word."""
  environment = environment | {"JAX_ENABLE_COMPILATION_CACHE": "0"}  # never reuse a program compiled by another version
  try:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds, check=False)
  except subprocess.TimeoutExpired:
    return "hangs"
  if done.returncode < 0:
    return "crashes"
  return {0: "right", 3: "wrong"}.get(done.returncode, "fails")


if __name__ == "__main__":
  run(main)
