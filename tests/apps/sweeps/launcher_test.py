"""The launcher: what it runs, skips and resumes, what a failure and a signal do, and its command line."""

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
  def test_every_member_once_and_the_second_time_nothing(
    self, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert launch.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    assert [row["status"] for row in gathered(launch)["rows"]] == ["finished"] * 3
    capfd.readouterr()
    assert launch.run() == 0
    assert launch.calls() == []
    assert capfd.readouterr().out.count("finished before") == 3

  def test_members_of_several_sweeps_are_trained_once(self, launch: Launch, tmp_path: Path) -> None:
    launch.run()
    launch.calls()
    other = tmp_path / "default.py"
    other.write_text(
      Path(launch.source)
      .read_text()
      .replace('(f"--config.model.blocks={n}",)', '(f"--config.model.growth={8 * (n - 1)}",)')
    )
    launch.source = str(other)
    # Growth 16 is the demo's own, as are three blocks: the default network, under another override.
    assert launch.run() == 0
    names = [run.workdir.name for run in launch.plan().runs]
    assert len(launch.calls()) == 2
    assert "growth" not in names[2]
    assert (launch.workdir / "default" / "sweep.json").exists()

  def test_a_half_done_run_goes_on(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    half = launch.plan().runs[1].workdir
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    assert launch.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    said = capfd.readouterr().out
    assert "2 blocks, seed 0, goes on" in said
    assert said.count("goes on") == 1

  def test_what_is_left_is_estimated_from_what_is_done(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    launch.run(variant="three")
    lines = [line for line in capfd.readouterr().out.splitlines() if "finished" not in line and line[0] == "["]
    assert len(lines) == 9
    assert lines[0] == "[1/9] 1 blocks, seed 0"
    assert lines[1].endswith("(about 8 min 00 s left)")  # 60 s each
    assert lines[8].endswith("(about 1 min 00 s left)")  # as the seeds before took, 60 and 61


class TestFailures:
  @pytest.mark.parametrize(
    ("does", "why"),
    [
      ("fail", "training diverged: loss is nan"),
      ("crash", "ValueError: an oversight"),
      ("kill", "ended by SIGKILL"),
      ("nothing", "ended without a result.json"),
    ],
  )
  def test_one_does_not_stop_the_rest(
    self, launch: Launch, capfd: pytest.CaptureFixture[str], does: str, why: str
  ) -> None:
    assert launch.run(blocks1=does) == 1
    assert launch.calls() == ["1", "2", "3"]
    captured = capfd.readouterr()
    assert "[1/3] 1 blocks, seed 0: failed after" in captured.out
    assert why in captured.out
    content = gathered(launch)
    assert content["status"] == "failed"
    assert [row["status"] for row in content["rows"]] == ["failed", "finished", "finished"]
    assert content["rows"][0]["error"] == f"seed 0: {why}"
    page = (launch.workdir / "blocks" / "index.html").read_text()
    assert f"1 blocks failed (seed 0: {why})" in page

  def test_what_a_run_says_of_errors_is_passed_on(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    launch.run(blocks1="crash")
    assert "Traceback" in capfd.readouterr().err

  def test_it_is_tried_again(self, launch: Launch) -> None:
    assert launch.run(blocks2="fail") == 1
    launch.calls()
    assert launch.run() == 0
    assert launch.calls() == ["2"]
    assert gathered(launch)["status"] == "finished"

  def test_a_damaged_result_is_a_failure_of_its_run(self, launch: Launch) -> None:
    launch.run()
    (launch.plan().runs[0].workdir / "result.json").write_text('{"accuracy"')
    assert launch.run() == 1
    row, *others = gathered(launch)["rows"]
    assert row["status"] == "failed"
    assert "result.json: expected a JSON object" in row["error"]
    assert [other["status"] for other in others] == ["finished"] * 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_goes_to_the_run_which_saves_and_then_the_sweep_ends(
  launch: Launch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
  signum = getattr(signal, name)
  before = signal.getsignal(signum)
  assert launch.run(blocks2=name) == 128 + signum
  assert launch.calls() == ["1", "2"]  # the third is not begun
  # The run had the signal from the sweep alone: a terminal's Ctrl-C would reach the whole group.
  assert (launch.plan().runs[1].workdir / "saved").read_text() == f"{int(signum)} False"
  said = capfd.readouterr().out
  assert f"stopped by {name}" in said
  assert "[3/3]" not in said
  assert [row["status"] for row in gathered(launch)["rows"]] == ["finished", "unfinished", "not yet run"]
  assert signal.getsignal(signum) is before
  assert launch.run() == 0
  assert launch.calls() == ["2", "3"]


class TestCommandLine:
  BLOCKS = "configs/sweeps/hsic_blocks.py"

  def test_kubernetes_takes_folders_of_the_volume(self) -> None:
    with pytest.raises(UserError, match=r"^--workdir=w: with Kubernetes expected a folder below /storage"):
      main([self.BLOCKS, "--backend=k8s", "--workdir=w", "--k8s=--claim=c"])

  @pytest.mark.parametrize(
    ("arguments", "said"),
    [
      (["configs/sweeps/hsic_bloks.py"], "configs/sweeps/hsic_blocks.py"),
      ([f"{BLOCKS}:tiny"], "no variant 'tiny': expected small or demo, or none"),
      (["configs/hsic.py"], "no function get_sweep"),
      ([BLOCKS, "--config.sede=1"], "member 1 block: config.sede: no such key; did you mean config.seed?"),
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
  def test_a_mistake_is_answered_in_one_line_before_anything_runs(
    self, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
      main([*arguments, f"--workdir={tmp_path}"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

  def test_the_script_ends_with_status_2_and_no_traceback(self, tmp_path: Path) -> None:
    command = [sys.executable, "launch/sweep.py", f"{self.BLOCKS}:tiny", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"error: {self.BLOCKS}:tiny: no variant 'tiny': expected small or demo, or none\n"

  def test_dry_run_prints_commands_and_leaves_files_and_devices_alone(self, tmp_path: Path) -> None:
    flags = [f"--workdir={tmp_path}", "--dry_run", "--config.budget_minutes=8", "--seeds=4,5"]
    command = [sys.executable, "launch/sweep.py", f"{self.BLOCKS}:small", *flags]
    # Whoever asks jax for a device fails: a GPU is for the runs alone.
    environment = os.environ | {"JAX_PLATFORMS": "nowhere"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0::2] == [f"# {n} block{'s' * (n > 1)}, seed {s}: not yet run" for n in (1, 2, 3, 4) for s in (4, 5)]
    for line in lines[1::2]:
      assert line.startswith("python -m fer_jax.main --config=configs/hsic.py:small --workdir=")
      assert "--config.budget_minutes=8" in line
      assert "'--config.duration=400 steps'" in line
    assert list(tmp_path.iterdir()) == []

  def test_a_kept_sweep_is_what_was_gathered(
    self, launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
  ) -> None:
    launch.run()
    results = launch.workdir.parent / "results"
    flags = [f"--workdir={launch.workdir}", "--name=blocks", f"--results={results}"]
    assert main([launch.source, *flags]) == 0  # all is finished, so fer_jax.main is not called
    assert json.loads((results / "blocks.json").read_text()) == gathered(launch)
    assert capsys.readouterr().out.endswith(f"page: {launch.workdir / 'blocks' / 'index.html'}\n")
