"""Sweeps of real training runs, started by the script: to the end, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_jax.apps import prepare
from fer_jax.data.builders.synthetic_faces import layouts

from .conftest import ROOT

SWEEP = """
from fer_jax.config.sweep import Candidate, Figure, Sweep

TINY = tuple(f"--config.{key}" for key in (
  "model.blocks=1", "model.convs=1", "model.growth=8", "model.stem=8", "model.pyramid=8", "batch_size=16",
  "log_every=1 steps", "data.name=fer2013",
))

def get_sweep():
  return Sweep(
    title="Two", citation="none", claim="none", figures=(Figure("curves", "validation accuracy"),),
    candidates=(
      Candidate("local", "configs/hsic.py:demo,layerwise", TINY),
      Candidate("twin", "configs/hsic.py:demo,backprop", TINY),
    ),
  )
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
  (tmp_path / "two.py").write_text(SWEEP)
  (tmp_path / "raw").mkdir()
  layouts.write_fer2013_csv(tmp_path / "raw" / "fer2013.csv", 48)
  prepare.main(["--dataset=fer2013", f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path}"])
  script = [sys.executable, "launch/sweep.py", str(tmp_path / "two.py"), f"--workdir={tmp_path / 'sweeps'}"]
  return [*script, f"--config.data.data_dir={tmp_path}"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """Returns an environment with one device, and with a compilation cache that the runs share."""
  cache = str(tmp_path_factory.mktemp("compiled"))
  cache_settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  return os.environ | {"XLA_FLAGS": "", **cache_settings}


@pytest.mark.slow
def test_sweep_of_two_candidates_with_two_steps(
  command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
  command += ["--config.duration=2 steps", "--name=two", f"--results={tmp_path / 'results'}"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr
  page = tmp_path / "sweeps" / "two_duration=2-steps" / "index.html"
  assert done.stdout.splitlines()[-1] == f"page: {page}"
  content = json.loads((tmp_path / "results" / "two.json").read_text())
  assert [row["steps"] for row in content["rows"]] == [3, 2]  # two phases with 90 and 10 % of two steps take 2 and 1
  assert [row["name"] for row in content["rows"]] == ["local", "twin"]
  for row in content["rows"]:
    report = tmp_path / "sweeps" / "runs" / row["runs"][0]["run"] / "report" / "index.html"
    assert f"{100 * row['measured']['test accuracy']:.1f}" in report.read_text()
    assert f"{100 * row['measured']['test accuracy']:.2f} %" in page.read_text()
  assert "data_dir" not in json.dumps(content)  # the location of the data is not part of the measurement


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_by_the_same_command(
  command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
  command += ["--config.duration=100 steps", "--config.evaluate_every=1000 steps"]
  with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("sweeps/runs/*/metrics.jsonl")) and time.monotonic() < deadline:
      time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGINT
  assert "stopped by SIGINT at step" in output
  assert len(list(tmp_path.glob("sweeps/runs/*"))) == 1
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr
  assert "local, seed 0, resumes" in done.stdout
  assert "resumed from step" in done.stdout
