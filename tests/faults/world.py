"""Where faults happen: little real runs in processes of their own, and the same run that nothing disturbed."""

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
from tests.faults.nursery import Forked, Nursery

Process: TypeAlias = subprocess.Popen[str] | Forked

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKPOINT_EVERY = 5
STEPS = 30
# A process that has not ended by then hangs.
PATIENCE = 300
_CONFIG = (
  "--config=configs/hsic.py:demo",
  "--config.data.name=fer2013",
  *("--config.model.blocks=1", "--config.model.convs=1", "--config.model.growth=8", "--config.model.stem=8"),
  *("--config.model.pyramid=8", "--config.batch_size=16", "--config.eval_batch_size=32", "--config.log_every=1 steps"),
  f"--config.duration={STEPS} steps",
  # So a run that goes on from step 17 compiles one phase.
  *("--config.phases.bottleneck.duration=0.5", "--config.phases.deepening.duration=0.5"),
  "--config.evaluate_every=10 steps",
  f"--config.checkpoint_every={CHECKPOINT_EVERY} steps",
)


@dataclasses.dataclass(frozen=True)
class Ended:
  """A process that has ended: its exit status and what it said."""

  status: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """Its last words; asserts that they are one line, and no traceback."""
    lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in self.err, self.err[-3000:]
    return lines[0]


class World:
  """A prepared dataset, compiled programs, and the run that nothing disturbed; for several threads at a time.

  Args:
    folder: for all of it.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self.data = folder / "data"
    self._numbers, self._making = itertools.count(1), threading.RLock()
    self._made: set[str] = set()
    self._nursery: Nursery | None = None

  def __enter__(self) -> "World":
    self._nursery = Nursery(self.folder / "socket", ROOT, self.environment())
    return self

  def __exit__(self, *exception: object) -> None:
    assert self._nursery
    self._nursery.close()

  def environment(self, **more: str) -> dict[str, str]:
    """Returns the environment of a run: one CPU device, compilations shared."""
    return os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": compilation.FLAGS,
      "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      "TFDS_DATA_DIR": str(self.data),
      "PYTHONPATH": str(ROOT),
      # As where runs are forked: one way to add up, whichever way a run is started.
      "OPENBLAS_NUM_THREADS": "1",
      **more,
    }

  def new_folder(self) -> Path:
    """Returns a folder for a run that does not exist yet."""
    return self.folder / f"run_{next(self._numbers)}"

  def prepare(self, data: Path, seed: int = 0) -> None:
    """Makes and prepares a little FER2013; with another seed, another one."""
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
    *more: str,
    fault: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
  ) -> Forked:
    """Starts a run, without the imports; see `tests.faults.child` for the faults that it can be given."""
    assert self._nursery
    told = self.environment(FER_JAX_FAULT=json.dumps(fault or {}), **(environment or {}))
    return self._nursery.start([*_CONFIG, f"--workdir={workdir}", *more], told)

  def start_command(self, workdir: Path) -> "subprocess.Popen[str]":
    """Starts a run as a user does: imports and all."""
    return subprocess.Popen(
      [sys.executable, "-m", "fer_jax.main", *_CONFIG, f"--workdir={workdir}"],
      cwd=ROOT,
      env=self.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, workdir: Path, *more: str, **how: Any) -> Ended:
    """Starts a run and waits for its end."""
    return finish(self.start(workdir, *more, **how))

  def restart(self, workdir: Path, **how: Any) -> Ended:
    """Starts a run again, as a user would, and expects it to succeed."""
    done = self.run(workdir, **how)
    assert done.status == 0, (done.status, done.out[-2000:], done.err[-3000:])
    return done

  def made(self, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a file or folder that trials have in common, made by the first that asks for it."""
    path = self.folder / name
    with self._making:
      if name not in self._made:
        make(path)
        self._made.add(name)
    return path

  @property
  def whole(self) -> Path:
    """The folder of the run that nothing disturbed."""
    return self.made("whole", self._make_whole)

  def _make_whole(self, workdir: Path) -> None:
    self.prepare(self.data)
    done = finish(self.start_command(workdir))
    assert done.status == 0, done
    forked = self.new_folder()
    self.restart(forked)
    same_run(workdir, forked)

  def operations(self, among: str) -> int:
    """Returns how many operations on the files of its folder a run does that match a regular expression."""
    assert self.whole

    def record(path: Path) -> None:
      self.restart(self.new_folder(), fault={"record": str(path)})

    lines = self.made("operations", record).read_text(encoding="utf-8").splitlines()
    return sum(bool(re.search(among, line)) for line in lines)

  @property
  def interrupted(self) -> Path:
    """The folder of a run that was told to stop at step 17, and has checkpoints of steps 17 and 15."""
    assert self.whole
    return self.made("interrupted", self._make_interrupted)

  def _make_interrupted(self, workdir: Path) -> None:
    done = self.run(workdir, fault={"stop_at_step": 17})
    assert done.status == 128 + signal.SIGTERM, done
    assert saved_steps(workdir)[-2:] == [15, 17]


def finish(process: Process, patience: float = PATIENCE) -> Ended:
  """Waits for the end of a process; one that hangs is ended, and is an error."""
  try:
    out, err = process.communicate(timeout=patience)
  except subprocess.TimeoutExpired:
    process.kill()
    out, err = process.communicate()
    raise AssertionError(f"the process hangs: {out[-1000:]} {err[-3000:]}") from None
  return Ended(process.returncode, out, err)


def rows(workdir: Path, kind: str) -> list[dict[str, Any]]:
  """Returns the records of a kind in metrics.jsonl, those cut short left out."""
  path = workdir / "metrics.jsonl"
  found = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
    with contextlib.suppress(ValueError):
      found.append(json.loads(line))
  return [row for row in found if row["kind"] == kind]


def last_step(workdir: Path) -> int:
  """Returns the last training step that was logged, 0 before the first."""
  return max((row["step"] for row in rows(workdir, "train")), default=0)


def saved_steps(workdir: Path) -> list[int]:
  """Returns the steps of the checkpoints that are complete."""
  folder = workdir / "checkpoints"
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def resumed_from(done: Ended) -> int:
  """Returns the step that a restarted run says it went on from; 0 where it began anew."""
  said = [line.split()[3] for line in done.out.splitlines() if line.startswith("resumed from step ")]
  return int(said[-1]) if said else 0


def same_run(one: Path, two: Path) -> None:
  """Asserts that two runs had the same losses and have the same last parameters and result, bit for bit."""
  results = [json.loads((of / "result.json").read_text(encoding="utf-8")) for of in (one, two)]
  for key in ("accuracy", "loss", "confusion_matrix", "steps", "validation"):
    assert results[0][key] == results[1][key], (key, results[0][key], results[1][key])
  losses = [{row["step"]: row["loss"] for row in rows(of, "train")} for of in (one, two)]
  assert losses[0] == losses[1], losses
  assert sorted(losses[0]) == list(range(1, STEPS + 1))
  variables = [read_variables(of / "checkpoints", STEPS) for of in (one, two)]
  for a, b in zip(*map(jax.tree.leaves, variables), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (two / "report" / "index.html").is_file()
  assert not list(two.rglob("*.part"))


def lost_after(world: World, workdir: Path, **how: Any) -> int:
  """Restarts a run that was disturbed, expects it to end as if it had not been; returns the steps that it did again.

  It must go on from the newest checkpoint that is complete.
  """
  reached, saved = last_step(workdir), saved_steps(workdir)
  finished = (workdir / "result.json").exists()
  done = world.restart(workdir, **how)
  same_run(world.whole, workdir)
  if finished:
    assert "contains a finished run" in done.out
    return 0
  began = resumed_from(done)
  assert began == (saved[-1] if saved else 0), (began, saved)
  return max(reached - began, 0)


def wait_for(condition: Callable[[], bool], process: Process) -> None:
  """Waits until a condition holds or a process has ended."""
  deadline = time.monotonic() + PATIENCE
  while not condition() and process.poll() is None:
    assert time.monotonic() < deadline, "this never came"
    time.sleep(0.005)


def wait_for_step(workdir: Path, step: int, process: Process) -> None:
  """Waits until a step has been logged or a process has ended; until there is a log for step 0."""
  log = workdir / "metrics.jsonl"
  wait_for(lambda: log.exists() and last_step(workdir) >= step, process)


def free_port() -> int:
  """Returns a port that nobody listens on."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


@contextlib.contextmanager
def ending(processes: Sequence[Process]) -> Iterator[None]:
  """Ends processes that are still there when the context is left."""
  try:
    yield
  finally:
    for process in processes:
      process.kill()
      process.communicate()
