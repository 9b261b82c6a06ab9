"""Tests the replicas benchmark with processes that do not train."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from fer_jax.apps.benchmarks import replicas as benchmark
from fer_jax.data import arrays as arrays_lib
from fer_jax.runtime.errors import Failure, UserError
from fer_jax.training.run_result import Strategy
from tests.fake_results import run_result
from tests.tiny_run import tiny_arrays

CONFIG = "configs/hsic.py:demo"
FOLDED = """
from configs import hsic

def get_config():
  config = hsic.get_config("demo")
  config.folds.by, config.folds.count, config.replicas, config.seed = "images", 4, 0, 7
  return config
"""


class FakeProcesses:
  """Replaces `subprocess`: records the commands and writes a result file for each."""

  def __init__(self, status=0):
    self.commands, self.status = [], status

  def run(self, command, **options):
    self.commands.append(command[3:])
    flags = dict(re.match(r"--(?:config\.)?([^=]+)=(.*)", each).groups() for each in command[3:])
    workdir = Path(flags["workdir"])
    workdir.mkdir(parents=True)
    if "replicas" in flags:
      result = run_result(accuracy=0.4 + int(flags["folds.number"]) / 10)
    else:
      result = run_result(accuracy=0.5, std=0.1, strategy=Strategy("vmap", 4, "as configured"))
    (workdir / "result.json").write_text(json.dumps(result.to_json()))
    time.sleep(0.02)
    return subprocess.CompletedProcess(command, self.status, "", "first\nerror: it broke\n")


@pytest.fixture
def processes(monkeypatch):
  monkeypatch.setattr(arrays_lib, "load", tiny_arrays)
  found = FakeProcesses()
  monkeypatch.setattr(benchmark.subprocess, "run", found.run)
  return found


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "folded.py"
  path.write_text(FOLDED)
  return str(path)


def test_trains_all_folds_in_one_process_and_each_in_a_separate_one(processes, config):
  headline, rows = benchmark.replicas(config, rounds=1)
  whole, *single = processes.commands
  assert [flag.partition("=")[0] for flag in whole] == ["--config", "--workdir"]
  expected = [
    [f"--config.seed={7 + fold}", "--config.replicas=1", f"--config.folds.number={fold}"] for fold in range(4)
  ]
  assert [command[2:] for command in single] == expected
  assert len({command[1] for command in processes.commands}) == 5  # folders
  one, sequence = rows
  assert (one["name"], sequence["name"]) == ("one program", headline)
  assert (one["time_ratio"], one["trained_together"], one["runs"]) == (1.0, 4, 4)
  assert sequence["time_ratio"] == sequence["seconds"] / one["seconds"] > 2
  assert (one["accuracy"], sequence["accuracy"]) == (0.5, pytest.approx(0.55))


def test_rejects_a_single_replica(processes):
  with pytest.raises(UserError, match="has a single replica; expected several"):
    benchmark.replicas(CONFIG, rounds=1)
  assert processes.commands == []


def test_failed_run_raises_with_its_error(processes, config):
  processes.status = 2
  with pytest.raises(Failure, match=r"fer_jax\.main --config=.*: exit status 2 \(error: it broke\)"):
    benchmark.replicas(config, rounds=1)
