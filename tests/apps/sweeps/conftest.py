"""A small sweep in a file, a launcher of it whose runs are those of fake_main.py, and clusters that run them."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fer_jax.apps.sweeps import k8s, slurm
from fer_jax.apps.sweeps.executors import Executor, Local
from fer_jax.apps.sweeps.launcher import Launcher
from fer_jax.apps.sweeps.plan import PlannedRun, SweepPlan, plan_sweep
from fer_jax.apps.sweeps.queues import Queue

ROOT = Path(__file__).resolve().parents[3]
SWEEP = """
from fer_jax.config.sweep import Candidate, Figure, Sweep

def get_sweep(variant=""):
  if variant not in ("", "three", "drawn", "against", "choose", "lines"):
    raise ValueError(f"no variant {variant!r}: expected three, drawn, against, choose, lines, or none")
  seeds = (0, 1, 2) if variant not in ("", "lines") else (0,)
  curves = (
    Figure("curves", "validation accuracy", "A note."), Figure("curves", "training loss"),
    Figure("curves", "training accuracy"),
  )
  lines = (
    Figure("lines", "test accuracy", title="By depth"), Figure("scatter", "test accuracy", over="parameters"),
    Figure("classes", "recall", candidates=("2 blocks", "3 blocks")),
  )
  points = (*(curves if variant == "drawn" else ()), Figure("points", "test accuracy"))
  return Sweep(
    title="Blocks & <seeds>",
    citation="A. Author 2023, figure 1",
    claim="More is <b>better</b>.",
    swept="blocks",
    candidates=tuple(
      Candidate(
        f"{n} blocks", "configs/hsic.py:demo", (f"--config.model.blocks={n}",), seeds, n, reported,
        series=("even" if n == 2 else "odd") if variant == "lines" else "", by_class={"happy": 0.9} if n == 2 else {},
      )
      for n, reported in ((1, {}), (2, {"test accuracy": 0.97, "steps to converge": 2500}), (3, {}))
    ),
    figures=lines if variant == "lines" else points,
    reference="2 blocks" if variant == "against" else "",
    choose="validation accuracy" if variant == "choose" else "",
  )
"""
# Two candidates, of which the second starts from the parameters of the first.
DEPENDENT_SWEEP = """
from fer_jax.config.sweep import Candidate, Sweep

def get_sweep(variant=""):
  first = Candidate("first", "configs/hsic.py:demo", ("--config.model.blocks=1",))
  second = Candidate("second", "configs/hsic.py:demo", ("--config.model.blocks=2",), init_from="first")
  return Sweep("title", "citation", "claim", (first, second), ())
"""


class Launch:
  """Plans and runs the sweep.

  Attributes:
    workdir: Folder of all sweeps.
    source: File of the sweep.
  """

  def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
    self.workdir = folder / "sweeps"
    self.source = str(folder / "blocks.py")
    self._calls = folder / "calls"
    self._monkeypatch = monkeypatch
    self._plans: dict[tuple[str, ...], SweepPlan] = {}
    Path(self.source).write_text(SWEEP)
    monkeypatch.setenv("FAKE_CALLS", str(self._calls))

  def plan(self, *overrides: str, variant: str = "") -> SweepPlan:
    source = f"{self.source}:{variant}" if variant else self.source
    key = (source, Path(self.source).read_text(), *overrides)
    if key not in self._plans:  # reading the configs is slow; a plan reads the state of its runs from the disk
      self._plans[key] = plan_sweep(source, self.workdir, overrides)
    return self._plans[key]

  def run(self, variant: str = "", executor: Executor | None = None, wait: bool = True, **behaviours: str) -> int:
    """Runs the unfinished runs, locally by default; `blocks2="fail"` is the behaviour of the run with two blocks."""
    by_part = {part.replace("blocks", "blocks="): behaviour for part, behaviour in behaviours.items()}
    self._monkeypatch.setenv("FAKE_RUNS", json.dumps(by_part))
    program = [sys.executable, "-S", str(Path(__file__).with_name("fake_main.py"))]
    return Launcher(self.plan(variant=variant), executor or Local(program), wait=wait).run()

  def runs_of(self, candidate: str, variant: str = "") -> list[PlannedRun]:
    return [run for run in self.plan(variant=variant).runs if run.candidate == candidate]

  def change_result(self, run: PlannedRun, **changes: Any) -> None:
    """Changes values in the result.json of a run."""
    path = run.workdir / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  def measure(self, variant: str, blocks: int, validation: Sequence[float], test: float) -> None:
    """Changes the accuracies of the runs with this number of blocks, one validation accuracy for each seed."""
    for run, accuracy in zip(self.runs_of(f"{blocks} blocks", variant), validation, strict=True):
      self.change_result(run, accuracy=test, validation={"accuracy": accuracy, "step": 20})

  def calls(self) -> list[str]:
    """Returns the numbers of blocks of the runs that were started since the last call, in order."""
    names = self._calls.read_text().split() if self._calls.exists() else []
    self._calls.unlink(missing_ok=True)
    # The demo has three blocks, so its folder name has no override.
    return [name.split("blocks=")[1][0] if "blocks=" in name else "3" for name in names]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
  monkeypatch.chdir(ROOT)
  return Launch(tmp_path, monkeypatch)


class Cluster:
  """Stand-ins on PATH for the commands of SLURM or Kubernetes, for the runs of a launch; see fake_cluster.py.

  Attributes:
    kind: "slurm" or "k8s".
    submit: Name of the command that submits.
    listing: Name of the command that lists the states of jobs.
  """

  def __init__(self, launch: Launch, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    self.launch, self.kind, self._folder, self._monkeypatch = launch, kind, folder, monkeypatch
    self.submit, self.listing = ("sbatch", "squeue") if kind == "slurm" else ("train.sh", "kubectl get")
    self.jobs = launch.workdir / "jobs"
    (folder / "bin").mkdir(parents=True)
    program = f"{sys.executable} -S {Path(__file__).with_name('fake_cluster.py')}"
    for name in ("sbatch", "squeue", "sacct", "scancel", "kubectl", "train.sh"):
      path = folder / "bin" / name
      path.write_text(f'#!/bin/sh\nexec {program} {name} "$@"\n')
      path.chmod(0o755)
    (folder / "slurm.sbatch").touch()
    monkeypatch.setattr(slurm, "SCRIPT", str(folder / "slurm.sbatch"))
    monkeypatch.setattr(k8s, "SCRIPT", str(folder / "bin" / "train.sh"))
    monkeypatch.setattr(k8s, "STORAGE", launch.workdir.parent)
    monkeypatch.setenv("FAKE_CLUSTER", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

  def remove(self, name: str) -> None:
    """Removes a command from PATH."""
    (self._folder / "bin" / name).unlink()
    self._monkeypatch.setenv("PATH", f"{self._folder / 'bin'}")

  def kubernetes(self, *flags: str) -> k8s.Kubernetes:
    return k8s.Kubernetes(["--claim=faces", *flags], self.launch.workdir)

  def queue(self, plan: SweepPlan, flags: Sequence[str] = ()) -> Queue:
    cluster = slurm.Slurm(flags, self.jobs) if self.kind == "slurm" else self.kubernetes(*flags)
    return Queue(cluster, self.jobs, plan.distinct, poll_seconds=0.01, grace_seconds=0.05)

  def run(
    self, *conditions: str, variant: str = "", wait: bool = True, flags: Sequence[str] = (), **behaviours: str
  ) -> int:
    """Runs the unfinished runs on the cluster under the conditions that fake_cluster.py lists."""
    self.set_conditions(*conditions)
    return self.launch.run(variant, self.queue(self.launch.plan(variant=variant), flags), wait, **behaviours)

  def set_conditions(self, *conditions: str) -> None:
    self._monkeypatch.setenv("FAKE_CONDITIONS", " ".join(conditions))

  def commands(self, name: str) -> list[list[str]]:
    """Returns the arguments of all calls of a command that begin with these words: "sbatch", "kubectl logs"."""
    path = self._folder / "commands"
    calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    words = name.split()
    return [call[len(words) :] for call in calls if call[: len(words)] == words]

  def known_jobs(self) -> dict[str, dict[str, Any]]:
    """Returns the jobs that the cluster knows, by id."""
    known: dict[str, dict[str, Any]] = json.loads((self._folder / "jobs.json").read_text())
    return known

  def set_state(self, job: str, state: str) -> None:
    """Changes the state of a job."""
    known = self.known_jobs()
    known[job]["state"] = state
    (self._folder / "jobs.json").write_text(json.dumps(known))

  def forget_jobs(self, *, keep: int = 0) -> None:
    """Makes the cluster forget all jobs but the first few."""
    kept = dict(list(self.known_jobs().items())[:keep])
    (self._folder / "jobs.json").write_text(json.dumps(kept))


@pytest.fixture
def slurm_cluster(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
  return Cluster(launch, "slurm", tmp_path / "cluster", monkeypatch)


@pytest.fixture(params=["slurm", "k8s"])
def cluster(request: pytest.FixtureRequest, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
  return Cluster(launch, request.param, tmp_path / "cluster", monkeypatch)


@pytest.fixture
def k8s_cluster(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
  return Cluster(launch, "k8s", tmp_path / "cluster", monkeypatch)


def statuses(launch: Launch, name: str = "blocks") -> list[str]:
  content = json.loads((launch.workdir / name / "sweep.json").read_text())
  return [row["status"] for row in content["rows"]]
