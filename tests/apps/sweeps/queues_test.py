"""Sweeps by the queue of a cluster: what is submitted and when, what is not again, and how jobs end."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fer_jax.apps.sweeps import command_line, queues
from fer_jax.apps.sweeps.command_line import main
from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError

from .conftest import ROOT, Cluster, Launch

BEGINNINGS = """
from fer_jax.sweep import Member, Sweep

def get_sweep(variant=""):
  first = Member("first", "configs/hsic.py:demo", ("--config.model.blocks=1",))
  second = Member("second", "configs/hsic.py:demo", ("--config.model.blocks=2",), begins_with="first")
  return Sweep("title", "citation", "claim", (first, second), ())
"""


def statuses(launch: Launch, name: str = "blocks") -> list[str]:
  content = json.loads((launch.workdir / name / "sweep.json").read_text())
  return [row["status"] for row in content["rows"]]


class TestRuns:
  def test_all_are_submitted_at_once_and_gathered_and_the_second_time_none(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    assert statuses(launch) == ["finished"] * 3
    assert len(cluster.commands(cluster.submit)) == 3
    lines = capfd.readouterr().out.splitlines()
    ids = list(cluster.known())
    assert lines[:3] == [f"[{n}/3] {n} blocks, seed 0: submitted as job {ids[n - 1]}" for n in (1, 2, 3)]
    assert lines[3:] == [f"[{n}/3] {n} blocks, seed 0: finished" for n in (1, 2, 3)]
    assert cluster.run() == 0
    assert capfd.readouterr().out.count("finished before") == 3
    assert len(cluster.commands(cluster.submit)) == 3

  def test_a_half_done_run_goes_on_and_a_finished_one_is_left_alone(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    launch.run(blocks2="fail")
    _, half, untouched = (run.workdir for run in launch.plan().runs)
    half.mkdir()
    (half / "config.json").write_text("{}")
    shutil.rmtree(untouched)
    capfd.readouterr()
    slurm_cluster.run("held", wait=False)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("finished before")
    assert [line.endswith(", goes on") for line in lines[1:3]] == [True, False]
    assert len(slurm_cluster.commands("sbatch")) == 2
    assert [path.name for path in half.iterdir()] == ["config.json"]
    assert not untouched.exists()  # a run takes an empty folder only

  @pytest.mark.parametrize("does", ["fail", "nothing"])
  def test_one_that_fails_does_not_stop_the_rest_and_is_submitted_again(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str], does: str
  ) -> None:
    assert cluster.run(blocks1=does) == 1
    assert statuses(launch) == ["failed", "finished", "finished"]
    job = next(iter(cluster.known()))
    said = "ended without a result.json"
    if does != "nothing":
      said = f"ended as {'FAILED' if cluster.kind == 'slurm' else 'Failed'}: training diverged: loss is nan"
    assert f"[1/3] 1 blocks, seed 0: failed: job {job} {said}\n" in capfd.readouterr().out
    launch.calls()
    assert cluster.run() == 0
    assert launch.calls() == ["1"]
    again = list(cluster.known())[-1]
    assert f"1 blocks, seed 0: job {job} {said}; submitted again as job {again}" in capfd.readouterr().out


class TestWaiting:
  def test_a_signal_ends_it_and_not_the_jobs_which_are_not_submitted_again(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("interrupt") == 128 + signal.SIGINT
    said = capfd.readouterr().out
    goes_on = "3 jobs go on; to cancel: scancel 1 2 3; run the same command to keep waiting"
    assert said.splitlines()[-1] == f"waiting stopped by SIGINT; {goes_on}"
    assert statuses(launch) == ["not yet run"] * 3
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert slurm_cluster.commands("scancel") == []
    assert launch.calls() == ["1", "2", "3"]

  def test_it_is_gone_on_with_by_any_sweep_that_shares_the_run(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    other = Path(launch.source).with_name("other.py")
    other.write_text(Path(launch.source).read_text())
    launch.source = str(other)
    assert slurm_cluster.run() == 0
    assert statuses(launch, "other") == ["finished"] * 3
    assert len(slurm_cluster.commands("sbatch")) == 3

  def test_without_it_the_same_command_gathers(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert cluster.run("held", wait=False) == 0
    ids = list(cluster.known())
    cancel = "scancel" if cluster.kind == "slurm" else "kubectl delete jobset --cascade=foreground"
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == f"3 jobs go on; to cancel: {cancel} {' '.join(ids)}; run the same command to gather"
    assert cluster.run("held", wait=False) == 0
    assert f"[2/3] 2 blocks, seed 0: queued as job {ids[1]}, submitted earlier\n" in capfd.readouterr().out
    assert cluster.run() == 0
    assert statuses(launch) == ["finished"] * 3
    assert len(cluster.commands(cluster.submit)) == 3

  def test_a_cluster_that_does_not_answer_is_asked_again(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("deaf") == 0
    said = capfd.readouterr().err
    assert said.count("warning: ") == 1
    assert "no answer from the controller; trying again" in said

  def test_a_job_that_vanished_is_given_up_and_then_submitted_again(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("lose", "unbooked") == 1
    assert capfd.readouterr().out.count("is no longer in the queue\n") == 3
    slurm_cluster.run("held", wait=False)
    ids = list(slurm_cluster.known())
    slurm_cluster.forget(keep=1)
    capfd.readouterr()
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3 + 3 + 2
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("finished before")  # while it was asked for
    assert f"job {ids[1]} is no longer in the queue; submitted again as job" in lines[1]
    assert launch.calls() == ["1", "2", "3"]


class TestJobsThatAreOn:
  """A job is submitted once, whatever became of the sweep that submitted it, and of what it wrote down."""

  def test_one_that_another_sweep_submits_meanwhile(self, k8s_cluster: Cluster, launch: Launch) -> None:
    assert k8s_cluster.run("timeout") == 1
    first, second, _ = launch.plan().runs
    k8s_cluster.be("held")
    one, other = k8s_cluster.queue(launch.plan()), k8s_cluster.queue(launch.plan())
    other.start(first)  # asks for the states of all
    one.start(second)
    deleted = k8s_cluster.commands("kubectl delete")
    assert re.fullmatch(r"queued as job \S+, submitted earlier", other.start(second))
    assert len(k8s_cluster.commands(k8s_cluster.submit)) == 3 + 2
    assert k8s_cluster.commands("kubectl delete") == deleted

  def test_one_whose_record_is_lost(self, cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.run("held", wait=False)
    ids = list(cluster.known())
    shutil.rmtree(cluster.jobs)
    deleted = cluster.commands("kubectl delete")
    assert cluster.run("held", wait=False) == 0
    assert f"[3/3] 3 blocks, seed 0: queued as job {ids[2]}, submitted earlier\n" in capfd.readouterr().out
    assert len(cluster.commands(cluster.submit)) == 3
    assert cluster.commands("kubectl delete") == deleted

  def test_one_of_another_folder_of_sweeps_is_another(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    slurm_cluster.jobs = launch.workdir / "others"
    here = launch.plan().runs[0]
    there = replace(here, workdir=launch.workdir.with_name("others") / here.workdir.name)
    assert "submitted as job" in slurm_cluster.queue(launch.plan()).start(there)
    assert len(slurm_cluster.known()) == 4

  def test_one_whose_submission_is_answered_too_late(
    self,
    slurm_cluster: Cluster,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
  ) -> None:
    monkeypatch.setattr(queues, "_ANSWER_SECONDS", 1.5)
    assert slurm_cluster.run("slow") == 0
    assert "warning: sbatch: timed out after 2 s" in capfd.readouterr().err
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert launch.calls() == ["1", "2", "3"]

  def test_one_whose_submission_is_all_that_is_done_when_the_terminal_goes(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run by nohup
    try:
      assert slurm_cluster.run("hangup") == 128 + signal.SIGHUP
    finally:
      signal.signal(signal.SIGHUP, before)
    assert "1 job goes on; to cancel: scancel 1; run the same command to keep waiting\n" in capfd.readouterr().out
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert launch.calls() == ["1", "2", "3"]


class TestOtherClusters:
  """The clusters of two backends, or of two places, keep their jobs' ids in the same files."""

  def test_a_job_that_may_be_on_elsewhere_is_not_submitted_here(
    self, slurm_cluster: Cluster, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    slurm_cluster.run("held", wait=False)
    other = Cluster(launch, "k8s", tmp_path / "other", monkeypatch)
    with pytest.raises(UserError, match=r"job 1 of slurm .* k8s") as caught:
      other.run()
    assert str(caught.value).startswith(str(min(slurm_cluster.jobs.glob("*.json"))))
    assert "\n" not in str(caught.value)
    assert not other.commands("train.sh")

  def test_one_that_was_seen_to_end_there_is(
    self, slurm_cluster: Cluster, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    assert slurm_cluster.run(blocks1="fail") == 1
    other = Cluster(launch, "k8s", tmp_path / "other", monkeypatch)
    assert other.run() == 0
    assert len(other.commands("train.sh")) == 1

  def test_another_namespace_is_another_place(self, k8s_cluster: Cluster, launch: Launch) -> None:
    k8s_cluster.run("held", wait=False)
    with pytest.raises(UserError, match="of k8s .*k8s --namespace=lab"):
      k8s_cluster.run("held", wait=False, flags=("--namespace=lab",))
    assert len(k8s_cluster.commands("train.sh")) == 3


class TestBeginnings:
  def test_one_waits_for_the_other(self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    Path(launch.source).write_text(BEGINNINGS)
    assert cluster.run("held", wait=False) == 0
    held = "1 to be started when the runs that they depend on have ended"
    if cluster.kind == "slurm":
      assert [job["after"] for job in cluster.known().values()] == ["", "1"]
      assert all("--kill-on-invalid-dep=yes" in flags for flags in cluster.commands("sbatch")[1:])
    else:
      assert len(cluster.known()) == 1
      assert held in capfd.readouterr().out
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2"]
    assert len(cluster.commands(cluster.submit)) == 2

  def test_one_whose_beginning_failed_fails(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(BEGINNINGS)
    assert cluster.run(blocks1="fail") == 1
    assert launch.calls() == ["1"]
    why = "second, seed 0: failed: it depends on first, seed 0, which failed\n"
    assert why in capfd.readouterr().out
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2"]

  def test_on_this_machine_too(self, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    Path(launch.source).write_text(BEGINNINGS)
    assert launch.run(blocks1="fail") == 1
    assert launch.calls() == ["1"]
    assert "second, seed 0: failed: it depends on first, seed 0, which failed\n" in capfd.readouterr().out


class TestRefusals:
  def test_nothing_can_be_submitted(self, cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match=r"^1 blocks, seed 0 cannot be submitted: .*no partition moon.*--(sbatch|k8s)"):
      cluster.run("refuse")
    assert len(cluster.commands(cluster.submit)) == 1

  def test_not_all_can_be_and_the_same_command_goes_on(self, slurm_cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match="^2 blocks, seed 0 cannot be submitted") as caught:
      slurm_cluster.run("limit")
    assert "\n" not in str(caught.value)
    assert statuses(launch) == ["finished", "not yet run", "not yet run"]
    assert slurm_cluster.run() == 0
    assert launch.calls() == ["1", "2", "3"]

  def test_so_many_at_a_time_only(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("busy") == 0
    assert launch.calls() == ["1", "2", "3"]
    said = capfd.readouterr().err
    assert "warning: 2 blocks, seed 0 cannot be submitted: error: no partition moon" in said
    assert said.count("warning") == 2

  def test_what_was_submitted_before_a_refusal_is_named(self, slurm_cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match="^2 blocks, seed 0 cannot be submitted") as caught:
      slurm_cluster.run("busy", wait=False)
    assert "; 1 job goes on; to cancel: scancel 1; run the same command to go on" in str(caught.value)
    assert statuses(launch) == ["not yet run"] * 3

  def test_jobs_that_are_on_are_found_before_one_is_refused(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    slurm_cluster.mark("1", "CANCELLED")
    with pytest.raises(UserError, match="^1 blocks, seed 0 cannot be submitted: .*; 2 jobs go on; .*scancel 2 3;"):
      slurm_cluster.run("busy", "held", wait=False)
    assert slurm_cluster.run("busy") == 0
    assert launch.calls() == ["2", "3", "1"]

  def test_a_command_is_missing(self, cluster: Cluster) -> None:
    name = "sbatch" if cluster.kind == "slurm" else "kubectl"
    cluster.remove(name)
    with pytest.raises(UserError, match=f"^{name}: command not found; ") as caught:
      cluster.run()
    assert "\n" not in str(caught.value)

  def test_states_are_not_known_before_anything_is_submitted(self, cluster: Cluster) -> None:
    cluster.run("held", wait=False)
    with pytest.raises(UserError, match="no answer from the controller") as caught:
      cluster.run("mute", wait=False)
    assert caught.value.status == 2
    assert len(cluster.commands(cluster.submit)) == 3

  def test_and_are_asked_for_again_while_there_is_time(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    assert slurm_cluster.run("deaf") == 0
    assert len(slurm_cluster.commands(slurm_cluster.submit)) == 3
    assert launch.calls() == ["1", "2", "3"]

  def test_a_damaged_record_is_named(self, slurm_cluster: Cluster) -> None:
    slurm_cluster.run("held", wait=False)
    record = min(slurm_cluster.jobs.glob("*.json"))
    record.write_text("{}")
    with pytest.raises(UserError, match="expected the id of a job") as caught:
      slurm_cluster.run()
    assert str(caught.value).startswith(str(record))


def test_a_sweep_that_is_on_is_refused_a_second_time(slurm_cluster: Cluster, launch: Launch) -> None:
  with locks.acquire(launch.workdir / "blocks" / "lock"):
    with pytest.raises(UserError, match=r"blocks: process \d+ on .* is running in this folder") as caught:
      slurm_cluster.run()
    assert caught.value.status == 2
    with pytest.raises(UserError, match="is running in this folder"):
      launch.run()
  assert slurm_cluster.commands("sbatch") == []
  assert slurm_cluster.run() == 0


class TestDryRun:
  """What is printed for a reader: each run's state, and the commands that would be run."""

  def shown(self, launch: Launch, capfd: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    capfd.readouterr()
    assert main([launch.source, f"--workdir={launch.workdir}", "--dry_run", *flags]) == 0
    return capfd.readouterr().out.splitlines()

  def test_of_a_cluster(self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    backend = f"--backend={cluster.kind}"
    flags = [backend, "--sbatch=--nodes=2 --time=1" if cluster.kind == "slurm" else "--k8s=--claim=faces --image=i"]
    before = self.shown(launch, capfd, *flags)
    assert before[0::2] == [f"# {n} blocks, seed 0: not yet run" for n in (1, 2, 3)]
    plan = launch.plan()
    queue = cluster.queue(plan, ["--nodes=2", "--time=1"] if cluster.kind == "slurm" else ["--image=i"])
    assert before[1::2] == [shlex.join(queue.command(run)) for run in plan.runs]
    assert not cluster.jobs.exists()
    assert cluster.commands(cluster.submit) == []
    cluster.run("held", wait=False)
    ids = list(cluster.known())
    assert self.shown(launch, capfd, *flags) == [
      f"# {n} blocks, seed 0: not yet run, queued as job {ids[n - 1]}" for n in (1, 2, 3)
    ]
    cluster.run()
    assert self.shown(launch, capfd, *flags) == [f"# {n} blocks, seed 0: finished" for n in (1, 2, 3)]

  def test_of_one_that_begins_with_another(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(BEGINNINGS)
    lines = self.shown(launch, capfd, "--backend=slurm")
    assert lines[2] == "# second, seed 0: not yet run; after first, seed 0"
    assert "--dependency=afterok:ID" in lines[3]
    slurm_cluster.run("held", wait=False)
    slurm_cluster.forget(keep=1)
    *_, second = self.shown(launch, capfd, "--backend=slurm")
    assert "--dependency=afterok:1 " in second


class TestProcessesOfThisMachine:
  def test_are_of_the_script_beside(
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

  def test_a_dry_run_shows_commands_that_the_script_takes(
    self, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert main([launch.source, f"--workdir={launch.workdir}", "--processes=2", "--dry_run"]) == 0
    line = capfd.readouterr().out.splitlines()[1]
    assert line.startswith("bash launch/local.sh --processes=2 --devices=1 -- --config=configs/hsic.py:demo --workdir=")
    words = shlex.split(line)
    words.insert(2, "--dry-run")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == 2
