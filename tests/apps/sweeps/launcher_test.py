"""The launcher: runs, skips and resumes; failures and signals; and its command line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.apps.sweeps.command_line import main
from fer_jax.runtime.errors import UserError

from .conftest import ROOT, Launch


def gathered(launch: Launch) -> dict:
  return json.loads((launch.workdir / "blocks" / "sweep.json").read_text())


class TestRuns:
  def test_every_candidate_runs_once(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    assert [row["status"] for row in gathered(launch)["rows"]] == ["finished"] * 3
    capfd.readouterr()
    assert launch.run() == 0
    assert launch.calls() == []
    assert capfd.readouterr().out.count("finished before") == 3

  def test_a_run_that_several_sweeps_share_is_trained_once(self, launch: Launch, tmp_path: Path) -> None:
    launch.run()
    launch.calls()
    other = tmp_path / "default.py"
    other.write_text(
      Path(launch.source)
      .read_text()
      .replace('(f"--config.model.blocks={n}",)', '(f"--config.model.growth={8 * (n - 1)}",)')
    )
    launch.source = str(other)
    # Growth 16 and three blocks are the demo's defaults, so both are the default network.
    assert launch.run() == 0
    names = [run.workdir.name for run in launch.plan().runs]
    assert len(launch.calls()) == 2
    assert "growth" not in names[2]
    assert (launch.workdir / "default" / "sweep.json").exists()

  def test_an_unfinished_run_is_resumed(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    half = launch.plan().runs[1].workdir
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    assert launch.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    output = capfd.readouterr().out
    assert "2 blocks, seed 0, resumes" in output
    assert output.count("resumes") == 1

  def test_the_time_left_is_estimated_from_finished_runs(
    self, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    launch.run(variant="three")
    lines = [line for line in capfd.readouterr().out.splitlines() if "finished" not in line and line[0] == "["]
    assert len(lines) == 9
    assert lines[0] == "[1/9] 1 blocks, seed 0"
    assert lines[1].endswith("(about 8 min 00 s left)")  # 60 s each
    assert lines[8].endswith("(about 1 min 00 s left)")  # the mean of the other seeds, 60 and 61 s


class TestFailures:
  @pytest.mark.parametrize(
    ("behaviour", "message"),
    [
      ("fail", "training diverged: loss is nan"),
      ("crash", "ValueError: a bug"),
      ("kill", "ended by SIGKILL"),
      ("nothing", "ended without a result.json"),
    ],
  )
  def test_a_failed_run_does_not_stop_the_others(
    self, launch: Launch, capfd: pytest.CaptureFixture[str], behaviour: str, message: str
  ) -> None:
    assert launch.run(blocks1=behaviour) == 1
    assert launch.calls() == ["1", "2", "3"]
    captured = capfd.readouterr()
    assert "[1/3] 1 blocks, seed 0: failed after" in captured.out
    assert message in captured.out
    content = gathered(launch)
    assert content["status"] == "failed"
    assert [row["status"] for row in content["rows"]] == ["failed", "finished", "finished"]
    assert content["rows"][0]["error"] == f"seed 0: {message}"
    page = (launch.workdir / "blocks" / "index.html").read_text()
    assert f"1 blocks failed (seed 0: {message})" in page

  def test_the_errors_of_a_run_are_forwarded(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    launch.run(blocks1="crash")
    assert "Traceback" in capfd.readouterr().err

  def test_a_failed_run_is_repeated(self, launch: Launch) -> None:
    assert launch.run(blocks2="fail") == 1
    launch.calls()
    assert launch.run() == 0
    assert launch.calls() == ["2"]
    assert gathered(launch)["status"] == "finished"

  def test_a_run_with_a_damaged_result_has_failed(self, launch: Launch) -> None:
    launch.run()
    (launch.plan().runs[0].workdir / "result.json").write_text('{"accuracy"')
    assert launch.run() == 1
    row, *others = gathered(launch)["rows"]
    assert row["status"] == "failed"
    assert "result.json: expected the result of a run" in row["error"]
    assert [other["status"] for other in others] == ["finished"] * 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_forwarded_to_the_run_and_ends_the_sweep(
  launch: Launch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
  signum = getattr(signal, name)
  before = signal.getsignal(signum)
  assert launch.run(blocks2=name) == 128 + signum
  assert launch.calls() == ["1", "2"]  # the third is not started
  # The run has its own process group, so it received the signal from the sweep only.
  assert (launch.plan().runs[1].workdir / "saved").read_text() == f"{int(signum)} False"
  output = capfd.readouterr().out
  assert f"stopped by {name}" in output
  assert "[3/3]" not in output
  assert [row["status"] for row in gathered(launch)["rows"]] == ["finished", "unfinished", "not yet run"]
  assert signal.getsignal(signum) is before
  assert launch.run() == 0
  assert launch.calls() == ["2", "3"]


class TestCommandLine:
  BLOCKS = "configs/sweeps/hsic_blocks.py"

  def test_rejects_a_folder_outside_the_volume_of_kubernetes(self) -> None:
    with pytest.raises(UserError, match=r"^--workdir=w: with Kubernetes expected a folder below /storage"):
      main([self.BLOCKS, "--backend=k8s", "--workdir=w", "--k8s=--claim=c"])

  @pytest.mark.parametrize(
    ("arguments", "message"),
    [
      (["configs/sweeps/hsic_bloks.py"], "configs/sweeps/hsic_blocks.py"),
      ([f"{BLOCKS}:tiny"], "no variant 'tiny': expected small or demo, or none"),
      (["configs/hsic.py"], "no function get_sweep"),
      ([BLOCKS, "--config.sede=1"], "candidate 1 block: config.sede: no such key; did you mean config.seed?"),
      ([BLOCKS, "--config.duration=soon"], "config.duration='soon'"),
      ([BLOCKS, "--config.batch_size=x"], "config.batch_size"),
      ([BLOCKS, "--config.seed=1"], "--seeds=0,1,2 instead"),
      ([BLOCKS, "--seeds=0,x"], "--seeds=0,x: expected whole numbers"),
      ([BLOCKS, "--seeds=0,0"], "each seed once"),
      ([BLOCKS, "--backend=moon"], "--backend=moon: expected one of local, slurm, k8s"),
      (
        [BLOCKS, "--backend=slurm", "--processes=2"],
        "--processes: expected only with --backend=local, not with --backend=slurm",
      ),
      ([BLOCKS, "--sbatch=--nodes=1"], "--sbatch: expected only with --backend=slurm, not with --backend=local"),
      ([BLOCKS, "--no_wait"], "--no_wait: expected only with --backend=slurm or --backend=k8s"),
      ([BLOCKS, "--processes=two"], "--processes=two: expected a whole number from 1 on"),
      ([BLOCKS, "--devices=0"], "--devices=0: expected a whole number from 1 on"),
      ([BLOCKS, "--backend=slurm", "--sbatch=--comment='a"], "--sbatch=--comment='a: No closing quotation"),
      ([BLOCKS, "--backend=slurm", "--sbatch=--array=1"], "--sbatch: --array=1: a sweep sets the names"),
      ([BLOCKS, "--dry"], "'--dry': unexpected argument"),
      ([BLOCKS, "--name=a b"], "--name=a b: expected letters"),
    ],
  )
  def test_rejects_invalid_arguments_before_anything_runs(
    self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
      main([*arguments, f"--workdir={tmp_path}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

  def test_the_script_exits_with_status_2_without_a_traceback(self, tmp_path: Path) -> None:
    command = [sys.executable, "launch/sweep.py", f"{self.BLOCKS}:tiny", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"error: {self.BLOCKS}:tiny: no variant 'tiny': expected small or demo, or none\n"

  def test_dry_run_prints_commands_and_uses_neither_files_nor_devices(self, tmp_path: Path) -> None:
    flags = [f"--workdir={tmp_path}", "--dry_run", "--config.budget_minutes=8", "--seeds=4,5"]
    command = [sys.executable, "launch/sweep.py", f"{self.BLOCKS}:small", *flags]
    # Any use of a device by the sweep itself fails: a GPU is only for the runs.
    environment = os.environ | {"JAX_PLATFORMS": "nowhere"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0::2] == [f"# {n} block{'s' * (n > 1)}, seed {s}: not yet run" for n in (1, 2, 3, 4) for s in (4, 5)]
    for line in lines[1::2]:
      assert line.startswith("python -m fer_jax.main --config=configs/hsic.py:small,layerwise --workdir=")
      assert "--config.budget_minutes=8" in line
      assert "'--config.duration=400 steps'" in line
    assert list(tmp_path.iterdir()) == []

  def test_name_copies_the_gathered_results(
    self, launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
  ) -> None:
    launch.run()
    results = launch.workdir.parent / "results"
    flags = [f"--workdir={launch.workdir}", "--name=blocks", f"--results={results}"]
    assert main([launch.source, *flags]) == 0  # all runs are finished, so fer_jax.main is not called
    assert json.loads((results / "blocks.json").read_text()) == gathered(launch)
    assert capsys.readouterr().out.endswith(f"page: {launch.workdir / 'blocks' / 'index.html'}\n")
