"""Starts runs of several processes on this machine, which communicate through Gloo."""

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
TIMEOUT = 120  # seconds; a run takes ten on an idle machine


class ProcessResult(NamedTuple):
  """Exit status and output of a process."""

  status: int
  out: str
  err: str


class LaunchedRun:
  """A run of `count` processes with `devices` devices each; `fault` is injected into process 1."""

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
          sys.executable,
          "-m",
          "tests.multiprocess.worker",
          f"--config={CONFIG}",
          f"--workdir={workdir}",
          *flags,
          f"--processes={count}",
          f"--process={index}",
          f"--coordinator=127.0.0.1:{port}",
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
    """Waits until a step is in the log."""
    log, deadline = self.workdir / "metrics.jsonl", time.monotonic() + TIMEOUT
    while not (log.exists() and f'"step": {step},' in log.read_text()):
      assert time.monotonic() < deadline, f"timed out before step {step}"
      assert self.processes[0].poll() is None, self.processes[0].communicate()
      time.sleep(0.05)

  def finish(self, timeout=TIMEOUT):
    """Waits until all processes have exited."""
    deadline = time.monotonic() + timeout
    results = []
    for process in self.processes:
      out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
      results.append(ProcessResult(process.returncode, out, err))
    return results


@pytest.fixture
def launch():
  """Returns a function that starts a run; its processes are killed after the test."""
  started = []

  def start(*arguments, **options):
    started.append(LaunchedRun(*arguments, **options))
    return started[-1]

  yield start
  for run in started:
    for process in run.processes:
      if process.poll() is None:
        process.kill()
      process.communicate()
