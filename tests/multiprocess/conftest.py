"""Runs of several processes on this machine, which talk to each other through gloo."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import compilation

CONFIG = Path(__file__).parent / "tiny.py"
PATIENCE = 120  # seconds; a run takes ten when nothing else is on


class Ended(NamedTuple):
  """How a process ended."""

  status: int
  said: str
  complained: str


class Launched:
  """Processes of one run, with so many devices each."""

  def __init__(self, workdir, count, devices, flags=(), fault=""):
    self.workdir = workdir
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "FER_JAX_TEST_FAULT": fault,
      "JAX_NUM_CPU_DEVICES": str(devices),
      "JAX_COMPILATION_CACHE_DIR": str(compilation.FOLDER),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    self.processes = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "tests.multiprocess.worker", f"--config={CONFIG}", f"--workdir={workdir}", *flags),
          *(f"--processes={count}", f"--process={index}", f"--coordinator=127.0.0.1:{port}"),
        ],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for index in range(count)
    ]

  def wait_for_step(self, step):
    """Returns when a step is logged."""
    log, end = self.workdir / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (log.exists() and f'"step": {step},' in log.read_text()):
      assert time.monotonic() < end, "no such step was logged"
      assert self.processes[0].poll() is None, self.processes[0].communicate()
      time.sleep(0.05)

  def end(self, seconds=PATIENCE):
    """Waits for all of them."""
    end = time.monotonic() + seconds
    found = []
    for process in self.processes:
      said, complained = process.communicate(timeout=max(end - time.monotonic(), 1))
      found.append(Ended(process.returncode, said, complained))
    return found


@pytest.fixture
def launch():
  """Starts processes; none of them outlives the test."""
  started = []

  def start(*arguments, **options):
    started.append(Launched(*arguments, **options))
    return started[-1]

  yield start
  for each in started:
    for process in each.processes:
      if process.poll() is None:
        process.kill()
      process.communicate()
