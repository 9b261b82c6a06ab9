"""Harness for fault injection: starts small real runs in processes, and compares them with an undisturbed run."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.training.checkpoint import read_variables
from tests import compilation
from tests.faults.fork_server import ForkedProcess, ForkServer

Process: TypeAlias = subprocess.Popen[str] | ForkedProcess

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKPOINT_EVERY = 5
STEPS = 30
TIMEOUT = 300  # seconds after which a process counts as hanging
_CONFIG = (
  "--config=configs/hsic.py:demo,layerwise",
  "--config.data.name=fer2013",
  "--config.model.blocks=1",
  "--config.model.convs=1",
  "--config.model.growth=8",
  "--config.model.stem=8",
  "--config.model.pyramid=8",
  "--config.batch_size=16",
  "--config.eval_batch_size=32",
  "--config.log_every=1 steps",
  f"--config.duration={STEPS} steps",
  # With these durations, a run that resumes from step 17 compiles only one phase.
  "--config.phases.bottleneck.duration=0.5",
  "--config.phases.deepening.duration=0.5",
  "--config.evaluate_every=10 steps",
  f"--config.checkpoint_every={CHECKPOINT_EVERY} steps",
)


@dataclasses.dataclass(frozen=True)
class ProcessResult:
  """Exit status and output of a process."""

  status: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """The error message; asserts that it is one line without a traceback."""
    lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in self.err, self.err[-3000:]
    return lines[0]


class Harness:
  """A prepared dataset, compiled programs and an undisturbed run; thread-safe.

  Args:
    folder: Folder for all files.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self.data = folder / "data"
    self._numbers, self._lock = itertools.count(1), threading.RLock()
    self._created: set[str] = set()
    self._fork_server: ForkServer | None = None

  def __enter__(self) -> "Harness":
    self._fork_server = ForkServer(self.folder / "socket", ROOT, self.environment())
    return self

  def __exit__(self, *exception: object) -> None:
    assert self._fork_server
    self._fork_server.close()

  def environment(self, **variables: str) -> dict[str, str]:
    """Returns the environment of a run, with one CPU device and a shared compilation cache."""
    return os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": compilation.FLAGS,
      "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      "TFDS_DATA_DIR": str(self.data),
      "PYTHONPATH": str(ROOT),
      # As in forked runs, so that sums are computed in the same order however a run is started.
      "OPENBLAS_NUM_THREADS": "1",
      **variables,
    }

  def new_folder(self) -> Path:
    """Returns a new path for the folder of a run."""
    return self.folder / f"run_{next(self._numbers)}"

  def prepare(self, data: Path, seed: int = 0) -> None:
    """Creates and prepares a small dataset in the format of FER2013, which depends on the seed."""
    raw = self.folder / f"raw_{seed}"
    raw.mkdir(parents=True, exist_ok=True)
    layouts.write_fer2013_csv(raw / "fer2013.csv", 48, seed)
    command = ["fer_jax.apps.prepare", "--dataset=fer2013", f"--manual_dir={raw}", f"--data_dir={data}", "--overwrite"]
    done = subprocess.run(
      [sys.executable, "-m", *command], cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

  def start(
    self,
    workdir: Path,
    *flags: str,
    fault: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
  ) -> ForkedProcess:
    """Starts a run by forking; see `tests.faults.faulty_run` for the faults."""
    assert self._fork_server
    variables = self.environment(FER_JAX_FAULT=json.dumps(fault or {}), **(environment or {}))
    return self._fork_server.start([*_CONFIG, f"--workdir={workdir}", *flags], variables)

  def start_command(self, workdir: Path) -> "subprocess.Popen[str]":
    """Starts a run by its command, as a user does."""
    return subprocess.Popen(
      [sys.executable, "-m", "fer_jax.main", *_CONFIG, f"--workdir={workdir}"],
      cwd=ROOT,
      env=self.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, workdir: Path, *flags: str, **options: Any) -> ProcessResult:
    """Starts a run and waits until it exits."""
    return finish(self.start(workdir, *flags, **options))

  def restart(self, workdir: Path, **options: Any) -> ProcessResult:
    """Starts a run again and asserts that it succeeds."""
    done = self.run(workdir, **options)
    assert done.status == 0, (done.status, done.out[-2000:], done.err[-3000:])
    return done

  def shared(self, name: str, create: Callable[[Path], object]) -> Path:
    """Returns a file or folder that all trials share; it is created at the first call."""
    path = self.folder / name
    with self._lock:
      if name not in self._created:
        create(path)
        self._created.add(name)
    return path

  @property
  def undisturbed(self) -> Path:
    """Folder of the undisturbed run."""
    return self.shared("undisturbed", self._create_undisturbed)

  def _create_undisturbed(self, workdir: Path) -> None:
    self.prepare(self.data)
    done = finish(self.start_command(workdir))
    assert done.status == 0, done
    forked = self.new_folder()
    self.restart(forked)
    assert_same_run(workdir, forked)

  def operations(self, among: str) -> int:
    """Returns the number of file operations of a run in its folder that match a regular expression."""
    assert self.undisturbed

    def record(path: Path) -> None:
      self.restart(self.new_folder(), fault={"record": str(path)})

    lines = self.shared("operations", record).read_text(encoding="utf-8").splitlines()
    return sum(bool(re.search(among, line)) for line in lines)

  @property
  def interrupted(self) -> Path:
    """Folder of a run that was stopped at step 17, with checkpoints of steps 15 and 17."""
    assert self.undisturbed
    return self.shared("interrupted", self._create_interrupted)

  def _create_interrupted(self, workdir: Path) -> None:
    done = self.run(workdir, fault={"stop_at_step": 17})
    assert done.status == 128 + signal.SIGTERM, done
    assert saved_steps(workdir)[-2:] == [15, 17]


def finish(process: Process, timeout: float = TIMEOUT) -> ProcessResult:
  """Waits until a process exits; kills it and raises AssertionError after the timeout."""
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    out, err = process.communicate()
    raise AssertionError(f"the process hangs: {out[-1000:]} {err[-3000:]}") from None
  return ProcessResult(process.returncode, out, err)


def rows(workdir: Path, kind: str) -> list[dict[str, Any]]:
  """Returns the records of a kind in metrics.jsonl, without truncated ones."""
  path = workdir / "metrics.jsonl"
  found = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
    with contextlib.suppress(ValueError):
      found.append(json.loads(line))
  return [row for row in found if row["kind"] == kind]


def last_step(workdir: Path) -> int:
  """Returns the last training step in the log; 0 if there is none."""
  return max((row["step"] for row in rows(workdir, "train")), default=0)


def saved_steps(workdir: Path) -> list[int]:
  """Returns the steps of the complete checkpoints."""
  folder = workdir / "checkpoints"
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def resumed_from(done: ProcessResult) -> int:
  """Returns the step from which a run reports that it resumed; 0 if it started at step 0."""
  steps = [line.split()[3] for line in done.out.splitlines() if line.startswith("resumed from step ")]
  return int(steps[-1]) if steps else 0


def assert_same_run(one: Path, two: Path) -> None:
  """Asserts that two runs have the same losses, final parameters and results, bit for bit."""
  results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (one, two)]
  for key in ("accuracy", "loss", "confusion_matrix", "steps", "validation"):
    assert results[0][key] == results[1][key], (key, results[0][key], results[1][key])
  losses = [{row["step"]: row["loss"] for row in rows(run, "train")} for run in (one, two)]
  assert losses[0] == losses[1], losses
  assert sorted(losses[0]) == list(range(1, STEPS + 1))
  variables = [read_variables(run / "checkpoints", STEPS) for run in (one, two)]
  for a, b in zip(*map(jax.tree.leaves, variables), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (two / "report" / "index.html").is_file()
  assert not list(two.rglob("*.part"))


def restart_and_compare(harness: Harness, workdir: Path, **options: Any) -> int:
  """Restarts a run; asserts that it resumes from the newest complete checkpoint and ends like an undisturbed run.

  Returns:
    Number of steps that were lost and repeated.
  """
  reached, saved = last_step(workdir), saved_steps(workdir)
  finished = (workdir / "result.json").exists()
  done = harness.restart(workdir, **options)
  assert_same_run(harness.undisturbed, workdir)
  if finished:
    assert "contains a finished run" in done.out
    return 0
  resumed = resumed_from(done)
  assert resumed == (saved[-1] if saved else 0), (resumed, saved)
  return max(reached - resumed, 0)


def wait_for(condition: Callable[[], bool], process: Process) -> None:
  """Waits until a condition holds or a process has exited."""
  deadline = time.monotonic() + TIMEOUT
  while not condition() and process.poll() is None:
    assert time.monotonic() < deadline, "timed out"
    time.sleep(0.005)


def wait_for_step(workdir: Path, step: int, process: Process) -> None:
  """Waits until a step has been logged (for step 0: until the log exists) or a process has exited."""
  log = workdir / "metrics.jsonl"
  wait_for(lambda: log.exists() and last_step(workdir) >= step, process)


def free_port() -> int:
  """Returns a free port."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


@contextlib.contextmanager
def killing_at_exit(processes: Sequence[Process]) -> Iterator[None]:
  """Kills the processes that still run when the context exits."""
  try:
    yield
  finally:
    for process in processes:
      process.kill()
      process.communicate()
