"""The command line of sweeps: dry runs, and runs as local processes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.apps.sweeps import command_line
from fer_jax.apps.sweeps.command_line import main

from .conftest import DEPENDENT_SWEEP, ROOT, Cluster, Launch, statuses


class TestDryRun:
  """Printed status and command of each run."""

  def printed(self, launch: Launch, capfd: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    capfd.readouterr()
    assert main([launch.source, f"--workdir={launch.workdir}", "--dry_run", *flags]) == 0
    return capfd.readouterr().out.splitlines()

  def test_prints_status_and_commands_for_a_cluster(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    backend = f"--backend={cluster.kind}"
    flags = [backend, "--sbatch=--nodes=2 --time=1" if cluster.kind == "slurm" else "--k8s=--claim=faces --image=i"]
    before = self.printed(launch, capfd, *flags)
    assert before[0::2] == [f"# {n} blocks, seed 0: not yet run" for n in (1, 2, 3)]
    plan = launch.plan()
    queue = cluster.queue(plan, ["--nodes=2", "--time=1"] if cluster.kind == "slurm" else ["--image=i"])
    assert before[1::2] == [shlex.join(queue.command(run)) for run in plan.runs]
    assert not cluster.jobs.exists()
    assert cluster.commands(cluster.submit) == []
    cluster.run("held", wait=False)
    ids = list(cluster.known_jobs())
    assert self.printed(launch, capfd, *flags) == [
      f"# {n} blocks, seed 0: not yet run, queued as job {ids[n - 1]}, submitted earlier" for n in (1, 2, 3)
    ]
    cluster.run()
    assert self.printed(launch, capfd, *flags) == [f"# {n} blocks, seed 0: finished" for n in (1, 2, 3)]

  def test_prints_why_a_state_is_unknown(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    slurm_cluster.run("held", wait=False)
    slurm_cluster.set_conditions("mute")
    expected = "# 1 blocks, seed 0: not yet run, state unknown: squeue: no answer from the controller"
    assert self.printed(launch, capfd, "--backend=slurm")[0] == expected

  def test_prints_the_dependencies_of_a_run(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(DEPENDENT_SWEEP)
    lines = self.printed(launch, capfd, "--backend=slurm")
    assert lines[2] == "# second, seed 0: not yet run; after first, seed 0"
    assert "--dependency=afterok:ID" in lines[3]
    slurm_cluster.run("held", wait=False)
    slurm_cluster.forget_jobs(keep=1)
    *_, second = self.printed(launch, capfd, "--backend=slurm")
    assert "--dependency=afterok:1 " in second


class TestLocalProcesses:
  def test_processes_are_started_by_the_script(
    self, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    script = tmp_path / "local.sh"
    fake = f"{sys.executable} -S {Path(__file__).with_name('fake_main.py')}"
    text = f'echo "$1 $2 $3" >>{tmp_path}/flags; shift 3; echo "[1] error: no memory" >&2; {fake} "$@" 2>/dev/null'
    script.write_text(text)
    monkeypatch.setattr(command_line, "SCRIPT", str(script))
    monkeypatch.setenv("FAKE_RUNS", '{"blocks=1": "fail"}')
    assert main([launch.source, f"--workdir={launch.workdir}", "--processes=2", "--devices=3"]) == 1
    assert (tmp_path / "flags").read_text() == "--processes=2 --devices=3 --\n" * 3
    assert statuses(launch) == ["failed", "finished", "finished"]
    assert re.search(r"1 blocks, seed 0: failed after .*: no memory\n", capfd.readouterr().out)

  def test_the_script_accepts_the_printed_commands(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([launch.source, f"--workdir={launch.workdir}", "--processes=2", "--dry_run"]) == 0
    line = capfd.readouterr().out.splitlines()[1]
    assert line.startswith("bash launch/local.sh --processes=2 --devices=1 -- --config=configs/hsic.py:demo --workdir=")
    words = shlex.split(line)
    words.insert(2, "--dry-run")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == 2
