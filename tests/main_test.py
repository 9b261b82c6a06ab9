"""The training command: from a CSV file to a report, killed and resumed, and error messages."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parent.parent
TINY = [
  "--config.model.blocks=1",
  "--config.model.convs=1",
  "--config.model.growth=8",
  "--config.model.stem=8",
  "--config.model.pyramid=8",
  "--config.batch_size=16",
  "--config.log_every=1 steps",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Environment of the subprocesses: one device and a shared compilation cache."""
  cache = str(tmp_path_factory.mktemp("compiled"))
  return os.environ | {
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": str(ROOT),
  }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, environment):
  """Folder of a small FER2013, prepared from a CSV file by the command."""
  folder = tmp_path_factory.mktemp("data")
  (folder / "raw").mkdir()
  layouts.write_fer2013_csv(folder / "raw" / "fer2013.csv", 48)
  completed = program(
    environment, "apps.prepare", "--dataset=fer2013", f"--manual_dir={folder / 'raw'}", f"--data_dir={folder}"
  )
  assert completed.returncode == 0, completed.stderr
  return folder


def program(environment, name, *arguments):
  command = [sys.executable, "-m", f"fer_jax.{name}", *arguments]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def training_arguments(prepared, workdir, steps):
  return [
    "--config=configs/hsic.py:demo,layerwise",
    f"--workdir={workdir}",
    "--config.data.name=fer2013",
    f"--config.data.data_dir={prepared}",
    f"--config.duration={steps} steps",
    *TINY,
  ]


def test_trains_and_reports_from_a_csv_file(environment, prepared, tmp_path):
  completed = program(environment, "main", *training_arguments(prepared, tmp_path / "run", 20))
  assert completed.returncode == 0, completed.stderr
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert np.sum(result["confusion_matrix"]) == 48
  report = tmp_path / "run" / "report" / "index.html"
  assert completed.stdout.splitlines()[-1] == f"report: {report}"
  assert f"{100 * result['accuracy']:.2f}" in report.read_text()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--config is missing"),
    (["--config=configs/hsic.py:demo", "--config.sede=1"], "config.sede: no such key; did you mean config.seed?"),
    (["--config=configs/hsic.py", "--config.data.data_dir={empty}"], "fer2013 is not prepared in"),
    (["--config=configs/hsic.py", "--config.data.name=fer2014"], "fer2014"),
    (["--config=configs/hsic.py:demo", "--workdir={full}"], "choose another --workdir"),
  ],
)
def test_rejects_mistakes_in_one_line_with_status_2(environment, tmp_path, arguments, message):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("not a run")
  (tmp_path / "empty").mkdir()
  paths = {"empty": tmp_path / "empty", "full": tmp_path / "full"}
  arguments = [argument.format(**paths) for argument in arguments]
  if not any(argument.startswith("--workdir") for argument in arguments):
    arguments.append(f"--workdir={tmp_path / 'run'}")
  completed = program(environment, "main", *arguments)
  assert completed.returncode == 2
  assert completed.stderr.startswith("error: ")
  assert len(completed.stderr.splitlines()) == 1, completed.stderr
  assert message in completed.stderr
  assert not (tmp_path / "run").exists()
  assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
  assert not list((tmp_path / "empty").iterdir())


def test_help_shows_the_usage(environment):
  completed = program(environment, "main", "--help")
  assert completed.returncode == 0
  assert "--config=FILE.py[:VARIANT]" in completed.stdout


@pytest.mark.slow
def test_a_run_killed_five_times_equals_an_uninterrupted_run(environment, prepared, tmp_path):
  steps = 600
  checkpoints = "--config.checkpoint_every=7 steps"
  uninterrupted = program(
    environment, "main", *training_arguments(prepared, tmp_path / "uninterrupted", steps), checkpoints
  )
  assert uninterrupted.returncode == 0, uninterrupted.stderr
  command = [
    sys.executable,
    "-m",
    "fer_jax.main",
    *training_arguments(prepared, tmp_path / "killed", steps),
    checkpoints,
  ]
  for step_to_kill in sorted(random.Random(time.time_ns()).sample(range(10, steps - 100), 5)):
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
      wait_for_step(tmp_path / "killed" / "metrics.jsonl", step_to_kill, process)
      process.send_signal(signal.SIGKILL)
      assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
  last = program(environment, "main", *training_arguments(prepared, tmp_path / "killed", steps), checkpoints)
  assert last.returncode == 0, last.stderr
  assert "resumed from step" in last.stdout
  params = []
  for name in ("uninterrupted", "killed"):
    with Checkpoints(tmp_path / name / "checkpoints") as saved:
      assert saved.newest_step == steps
      params.append(saved.restore_variables(steps))
  import jax

  for one, two in zip(*map(jax.tree.leaves, params), strict=True):
    np.testing.assert_array_equal(one, two)


def wait_for_step(metrics: Path, step: int, process) -> None:
  """Waits until a run's log reaches a step."""
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists():
      lines = [line for line in metrics.read_text().splitlines() if line.startswith('{"kind": "train"')]
      if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
        return
    time.sleep(0.01)
  raise AssertionError(f"step {step} was not reached")
