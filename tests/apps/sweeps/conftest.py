"""A little sweep in a file, a launcher of it whose runs are those of fake_main.py, and a cluster for these."""

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
from fer_jax.apps.sweeps.plan import Plan, plan
from fer_jax.apps.sweeps.queues import Queue

ROOT = Path(__file__).resolve().parents[3]
SWEEP = """
from fer_jax.sweep import Figure, Member, Sweep

def get_sweep(variant=""):
  if variant not in ("", "three", "drawn", "against", "choose", "lines"):
    raise ValueError(f"no variant {variant!r}: expected three, drawn, against, choose, lines, or none")
  seeds = (0, 1, 2) if variant not in ("", "lines") else (0,)
  curves = (
    Figure("curves", "validation accuracy", "A note."), Figure("curves", "training loss"),
    Figure("curves", "training accuracy"),
  )
  lines = (
    Figure("lines", "test accuracy", title="By depth"),
    Figure("classes", "recall", members=("2 blocks", "3 blocks")),
  )
  points = (*(curves if variant == "drawn" else ()), Figure("points", "test accuracy"))
  return Sweep(
    title="Blocks & <seeds>",
    citation="A. Author 2023, figure 1",
    claim="More is <b>better</b>.",
    swept="blocks",
    members=tuple(
      Member(
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


class Launch:
  """Runs the sweep; `calls` are the runs that were taken since the last look, as members' numbers of blocks."""

  def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
    self.workdir = folder / "sweeps"
    self.source = str(folder / "blocks.py")
    self._calls = folder / "calls"
    self._monkeypatch = monkeypatch
    self._plans: dict[tuple[str, ...], Plan] = {}
    Path(self.source).write_text(SWEEP)
    monkeypatch.setenv("FAKE_CALLS", str(self._calls))

  def plan(self, *overrides: str, variant: str = "") -> Plan:
    source = f"{self.source}:{variant}" if variant else self.source
    key = (source, Path(self.source).read_text(), *overrides)
    if key not in self._plans:  # to read the configs takes a while; what has been run is looked up on the disk
      self._plans[key] = plan(source, self.workdir, overrides)
    return self._plans[key]

  def run(self, variant: str = "", executor: Executor | None = None, wait: bool = True, **does: str) -> int:
    """Runs what is left, on this machine if nowhere else; `blocks2="fail"` is what the run of two blocks does."""
    told = {part.replace("blocks", "blocks="): what for part, what in does.items()}
    self._monkeypatch.setenv("FAKE_RUNS", json.dumps(told))
    program = [sys.executable, "-S", str(Path(__file__).with_name("fake_main.py"))]
    return Launcher(self.plan(variant=variant), executor or Local(program), wait=wait).run()

  def measure(self, variant: str, blocks: int, validation: Sequence[float | None], test: float) -> None:
    """Gives the runs of so many blocks, one for each seed, other accuracies."""
    runs = [run for run in self.plan(variant=variant).runs if run.member == f"{blocks} blocks"]
    for run, accuracy in zip(runs, validation, strict=True):
      path = run.workdir / "result.json"
      result = json.loads(path.read_text())
      path.write_text(json.dumps({**result, "accuracy": test, "validation": {"accuracy": accuracy, "step": 20}}))

  def calls(self) -> list[str]:
    names = self._calls.read_text().split() if self._calls.exists() else []
    self._calls.unlink(missing_ok=True)
    # The demo has three blocks: a folder's name says what differs.
    return [name.split("blocks=")[1][0] if "blocks=" in name else "3" for name in names]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
  monkeypatch.chdir(ROOT)
  return Launch(tmp_path, monkeypatch)


class Cluster:
  """A cluster on PATH, SLURM's or Kubernetes', for the runs of a launch; see fake_cluster.py.

  Attributes:
    kind: "slurm" or "k8s".
    submit: the name of the command that submits.
    listing: that of the command that tells the jobs' states.
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
    """Takes a command away."""
    (self._folder / "bin" / name).unlink()
    self._monkeypatch.setenv("PATH", f"{self._folder / 'bin'}")

  def kubernetes(self, *flags: str) -> k8s.Kubernetes:
    return k8s.Kubernetes(["--claim=faces", *flags], self.launch.workdir)

  def queue(self, plan: Plan, flags: Sequence[str] = ()) -> Queue:
    cluster = slurm.Slurm(flags, self.jobs) if self.kind == "slurm" else self.kubernetes(*flags)
    return Queue(cluster, self.jobs, plan.distinct, poll_seconds=0.01, grace_seconds=0.05)

  def run(self, *how: str, variant: str = "", wait: bool = True, flags: Sequence[str] = (), **does: str) -> int:
    """Runs what is left in the cluster, which is well, or is as `how` says (see fake_cluster.py)."""
    self.be(*how)
    return self.launch.run(variant, self.queue(self.launch.plan(variant=variant), flags), wait, **does)

  def be(self, *how: str) -> None:
    """Makes the cluster as `how` says; well, where it says nothing."""
    self._monkeypatch.setenv("FAKE_HOW", " ".join(how))

  def commands(self, name: str) -> list[list[str]]:
    """Returns the arguments of the calls of a command so far, or of those that begin with a word: "kubectl logs"."""
    path = self._folder / "commands"
    calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    words = name.split()
    return [call[len(words) :] for call in calls if call[: len(words)] == words]

  def known(self) -> dict[str, dict[str, Any]]:
    """Returns the jobs that it remembers, by id."""
    known: dict[str, dict[str, Any]] = json.loads((self._folder / "jobs.json").read_text())
    return known

  def mark(self, job: str, state: str) -> None:
    """Gives a job another state."""
    known = self.known()
    known[job]["state"] = state
    (self._folder / "jobs.json").write_text(json.dumps(known))

  def forget(self, *, keep: int = 0) -> None:
    """Forgets its jobs, but for the first few."""
    kept = dict(list(self.known().items())[:keep])
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
