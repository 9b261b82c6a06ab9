"""The command that users run: from a CSV to a report, killed and resumed, and its answers to mistakes."""

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
  """The environment of the subprocesses: one device, as most users have, and compilations shared between them."""
  cache = str(tmp_path_factory.mktemp("compiled"))
  return os.environ | {
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": str(ROOT),
  }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, environment):
  """The data_dir of a little FER2013, prepared from a CSV by the program."""
  folder = tmp_path_factory.mktemp("data")
  (folder / "raw").mkdir()
  layouts.write_fer2013_csv(folder / "raw" / "fer2013.csv", 48)
  done = program(
    environment, "apps.prepare", "--dataset=fer2013", f"--manual_dir={folder / 'raw'}", f"--data_dir={folder}"
  )
  assert done.returncode == 0, done.stderr
  return folder


def program(environment, name, *arguments):
  command = [sys.executable, "-m", f"fer_jax.{name}", *arguments]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def training(prepared, workdir, steps):
  return [
    "--config=configs/hsic.py:demo",
    f"--workdir={workdir}",
    "--config.data.name=fer2013",
    f"--config.data.data_dir={prepared}",
    f"--config.duration={steps} steps",
    *TINY,
  ]


def test_from_a_csv_to_a_report(environment, prepared, tmp_path):
  done = program(environment, "main", *training(prepared, tmp_path / "run", 20))
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert np.sum(result["confusion_matrix"]) == 48
  report = tmp_path / "run" / "report" / "index.html"
  assert done.stdout.splitlines()[-1] == f"report: {report}"
  assert f"{100 * result['accuracy']:.2f}" in report.read_text()


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([], "--config is missing"),
    (["--config=configs/hsic.py:demo", "--config.sede=1"], "config.sede: no such key; did you mean config.seed?"),
    (["--config=configs/hsic.py", "--config.data.data_dir={empty}"], "configs/hsic.py:demo"),
    (["--config=configs/hsic.py", "--config.data.name=fer2014"], "fer2014"),
    (["--config=configs/hsic.py:demo", "--workdir={full}"], "choose another --workdir"),
  ],
)
def test_a_mistake_is_answered_in_one_line_with_status_2(environment, tmp_path, arguments, said):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("not a run")
  (tmp_path / "empty").mkdir()
  places = {"empty": tmp_path / "empty", "full": tmp_path / "full"}
  arguments = [argument.format(**places) for argument in arguments]
  if not any(argument.startswith("--workdir") for argument in arguments):
    arguments.append(f"--workdir={tmp_path / 'run'}")
  done = program(environment, "main", *arguments)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert said in done.stderr
  assert not (tmp_path / "run").exists()
  assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
  assert not list((tmp_path / "empty").iterdir())


def test_help_shows_the_usage(environment):
  done = program(environment, "main", "--help")
  assert done.returncode == 0
  assert "--config=FILE.py[:VARIANT]" in done.stdout


@pytest.mark.slow
def test_killed_five_times_a_run_ends_bit_for_bit_as_if_it_had_not_been(environment, prepared, tmp_path):
  steps = 600
  checkpoints = "--config.checkpoint_every=7 steps"
  whole = program(environment, "main", *training(prepared, tmp_path / "whole", steps), checkpoints)
  assert whole.returncode == 0, whole.stderr
  command = [
    sys.executable,
    "-m",
    "fer_jax.main",
    *training(prepared, tmp_path / "killed", steps),
    checkpoints,
  ]
  for at in sorted(random.Random(time.time_ns()).sample(range(10, steps - 100), 5)):
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
      wait_for_step(tmp_path / "killed" / "metrics.jsonl", at, process)
      process.send_signal(signal.SIGKILL)
      assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
  last = program(environment, "main", *training(prepared, tmp_path / "killed", steps), checkpoints)
  assert last.returncode == 0, last.stderr
  assert "resumed from step" in last.stdout
  params = []
  for name in ("whole", "killed"):
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
