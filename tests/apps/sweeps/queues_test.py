"""Sweeps on a cluster: submission of jobs, waiting, ends of jobs, and repeated commands."""

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fer_jax.apps.sweeps import cluster as cluster_lib
from fer_jax.runtime import locks
from fer_jax.runtime.errors import UserError

from .conftest import DEPENDENT_SWEEP, Cluster, Launch, statuses


class TestRuns:
  def test_all_runs_are_submitted_at_once_and_only_once(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2", "3"]
    assert statuses(launch) == ["finished"] * 3
    assert len(cluster.commands(cluster.submit)) == 3
    lines = capfd.readouterr().out.splitlines()
    ids = list(cluster.known_jobs())
    assert lines[:3] == [f"[{n}/3] {n} blocks, seed 0: submitted as job {ids[n - 1]}" for n in (1, 2, 3)]
    assert lines[3:] == [f"[{n}/3] {n} blocks, seed 0: finished" for n in (1, 2, 3)]
    assert cluster.run() == 0
    assert capfd.readouterr().out.count("finished before") == 3
    assert len(cluster.commands(cluster.submit)) == 3

  def test_an_unfinished_run_is_resumed_and_a_finished_one_is_skipped(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    launch.run(blocks2="fail")
    _, unfinished, new = (run.workdir for run in launch.plan().runs)
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    shutil.rmtree(new)
    capfd.readouterr()
    slurm_cluster.run("held", wait=False)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("finished before")
    assert [line.endswith(", resumes") for line in lines[1:3]] == [True, False]
    assert len(slurm_cluster.commands("sbatch")) == 2
    assert [path.name for path in unfinished.iterdir()] == ["config.json"]
    assert not new.exists()  # a run requires an empty folder

  @pytest.mark.parametrize("behaviour", ["fail", "nothing"])
  def test_a_failed_run_does_not_stop_the_others_and_is_submitted_again(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str], behaviour: str
  ) -> None:
    assert cluster.run(blocks1=behaviour) == 1
    assert statuses(launch) == ["failed", "finished", "finished"]
    job = next(iter(cluster.known_jobs()))
    end = "ended without a result.json"
    if behaviour != "nothing":
      end = f"ended as {'FAILED' if cluster.kind == 'slurm' else 'Failed'}: training diverged: loss is nan"
    assert f"[1/3] 1 blocks, seed 0: failed: job {job} {end}\n" in capfd.readouterr().out
    launch.calls()
    assert cluster.run() == 0
    assert launch.calls() == ["1"]
    again = list(cluster.known_jobs())[-1]
    assert f"1 blocks, seed 0: job {job} {end}; submitted again as job {again}" in capfd.readouterr().out


class TestWaiting:
  def test_a_signal_ends_the_waiting_but_not_the_jobs(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("interrupt") == 128 + signal.SIGINT
    output = capfd.readouterr().out
    remaining = "3 jobs continue; to cancel: scancel 1 2 3; run the same command to keep waiting"
    assert output.splitlines()[-1] == f"waiting stopped by SIGINT; {remaining}"
    assert statuses(launch) == ["not yet run"] * 3
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert slurm_cluster.commands("scancel") == []
    assert launch.calls() == ["1", "2", "3"]

  def test_another_sweep_with_the_same_runs_adopts_the_jobs(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    other = Path(launch.source).with_name("other.py")
    other.write_text(Path(launch.source).read_text())
    launch.source = str(other)
    assert slurm_cluster.run() == 0
    assert statuses(launch, "other") == ["finished"] * 3
    assert len(slurm_cluster.commands("sbatch")) == 3

  def test_without_waiting_the_same_command_gathers(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert cluster.run("held", wait=False) == 0
    ids = list(cluster.known_jobs())
    cancel = "scancel" if cluster.kind == "slurm" else "kubectl delete jobset --cascade=foreground"
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == f"3 jobs continue; to cancel: {cancel} {' '.join(ids)}; run the same command to gather"
    assert cluster.run("held", wait=False) == 0
    assert f"[2/3] 2 blocks, seed 0: queued as job {ids[1]}, submitted earlier\n" in capfd.readouterr().out
    assert cluster.run() == 0
    assert statuses(launch) == ["finished"] * 3
    assert len(cluster.commands(cluster.submit)) == 3

  def test_a_query_without_an_answer_is_repeated(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("deaf") == 0
    output = capfd.readouterr().err
    assert output.count("warning: ") == 1
    assert "no answer from the controller; trying again" in output

  def test_a_job_that_disappeared_has_failed_and_is_submitted_again(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("lose", "unbooked") == 1
    assert capfd.readouterr().out.count("is no longer in the queue\n") == 3
    slurm_cluster.run("held", wait=False)
    ids = list(slurm_cluster.known_jobs())
    slurm_cluster.forget_jobs(keep=1)
    capfd.readouterr()
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3 + 3 + 2
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("finished before")  # during the first query
    assert f"job {ids[1]} is no longer in the queue; submitted again as job" in lines[1]
    assert launch.calls() == ["1", "2", "3"]


class TestActiveJobs:
  """A run is submitted once, even if the sweep that submitted it was killed or its record was lost."""

  def test_adopts_a_job_that_another_sweep_has_just_submitted(self, k8s_cluster: Cluster, launch: Launch) -> None:
    assert k8s_cluster.run("timeout") == 1
    first, second, _ = launch.plan().runs
    k8s_cluster.set_conditions("held")
    earlier, later = k8s_cluster.queue(launch.plan()), k8s_cluster.queue(launch.plan())
    later.start(first)  # queries the states of all jobs
    earlier.start(second)
    deleted = k8s_cluster.commands("kubectl delete")
    assert re.fullmatch(r"queued as job \S+, submitted earlier", later.start(second))
    assert len(k8s_cluster.commands(k8s_cluster.submit)) == 3 + 2
    assert k8s_cluster.commands("kubectl delete") == deleted

  def test_adopts_a_job_whose_record_is_lost(self, cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.run("held", wait=False)
    ids = list(cluster.known_jobs())
    shutil.rmtree(cluster.jobs)
    deleted = cluster.commands("kubectl delete")
    assert cluster.run("held", wait=False) == 0
    assert f"[3/3] 3 blocks, seed 0: queued as job {ids[2]}, submitted earlier\n" in capfd.readouterr().out
    assert len(cluster.commands(cluster.submit)) == 3
    assert cluster.commands("kubectl delete") == deleted

  def test_a_run_in_another_folder_of_sweeps_is_submitted(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    slurm_cluster.jobs = launch.workdir / "others"
    here = launch.plan().runs[0]
    there = replace(here, workdir=launch.workdir.with_name("others") / here.workdir.name)
    assert "submitted as job" in slurm_cluster.queue(launch.plan()).start(there)
    assert len(slurm_cluster.known_jobs()) == 4

  def test_adopts_a_job_whose_submission_timed_out(
    self,
    slurm_cluster: Cluster,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
  ) -> None:
    monkeypatch.setattr(cluster_lib, "_TIMEOUT_SECONDS", 1.5)
    assert slurm_cluster.run("slow") == 0
    assert "warning: sbatch: timed out after 2 s" in capfd.readouterr().err
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert launch.calls() == ["1", "2", "3"]

  def test_adopts_a_job_that_was_submitted_when_the_terminal_closed(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run under nohup
    try:
      assert slurm_cluster.run("hangup") == 128 + signal.SIGHUP
    finally:
      signal.signal(signal.SIGHUP, before)
    assert "1 job continues; to cancel: scancel 1; run the same command to keep waiting\n" in capfd.readouterr().out
    assert slurm_cluster.run() == 0
    assert len(slurm_cluster.commands("sbatch")) == 3
    assert launch.calls() == ["1", "2", "3"]


class TestOtherClusters:
  """Clusters of two backends, or two namespaces, record their jobs in the same files."""

  def test_rejects_a_run_that_may_be_active_on_another_cluster(
    self, slurm_cluster: Cluster, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    slurm_cluster.run("held", wait=False)
    other = Cluster(launch, "k8s", tmp_path / "other", monkeypatch)
    with pytest.raises(UserError, match=r"job 1 of slurm .* k8s") as caught:
      other.run()
    assert str(caught.value).startswith(str(min(slurm_cluster.jobs.glob("*.json"))))
    assert "\n" not in str(caught.value)
    assert not other.commands("train.sh")

  def test_submits_a_run_whose_job_has_ended_on_another_cluster(
    self, slurm_cluster: Cluster, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
  ) -> None:
    assert slurm_cluster.run(blocks1="fail") == 1
    other = Cluster(launch, "k8s", tmp_path / "other", monkeypatch)
    assert other.run() == 0
    assert len(other.commands("train.sh")) == 1

  def test_another_namespace_is_another_cluster(self, k8s_cluster: Cluster, launch: Launch) -> None:
    k8s_cluster.run("held", wait=False)
    with pytest.raises(UserError, match="of k8s .*k8s --namespace=lab"):
      k8s_cluster.run("held", wait=False, flags=("--namespace=lab",))
    assert len(k8s_cluster.commands("train.sh")) == 3


class TestInitFrom:
  def test_a_run_waits_for_the_one_that_provides_its_parameters(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(DEPENDENT_SWEEP)
    assert cluster.run("held", wait=False) == 0
    later = "1 to be started when the runs that they depend on have ended"
    if cluster.kind == "slurm":
      assert [job["after"] for job in cluster.known_jobs().values()] == ["", "1"]
      assert all("--kill-on-invalid-dep=yes" in flags for flags in cluster.commands("sbatch")[1:])
    else:
      assert len(cluster.known_jobs()) == 1
      assert later in capfd.readouterr().out
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2"]
    assert len(cluster.commands(cluster.submit)) == 2

  def test_a_run_fails_if_the_one_that_provides_its_parameters_fails(
    self, cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(DEPENDENT_SWEEP)
    assert cluster.run(blocks1="fail") == 1
    assert launch.calls() == ["1"]
    message = "second, seed 0: failed: it depends on first, seed 0, which failed\n"
    assert message in capfd.readouterr().out
    assert cluster.run() == 0
    assert launch.calls() == ["1", "2"]

  def test_a_local_run_fails_if_the_one_that_provides_its_parameters_fails(
    self, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    Path(launch.source).write_text(DEPENDENT_SWEEP)
    assert launch.run(blocks1="fail") == 1
    assert launch.calls() == ["1"]
    assert "second, seed 0: failed: it depends on first, seed 0, which failed\n" in capfd.readouterr().out


class TestRejections:
  def test_rejects_a_sweep_if_the_first_submission_fails(self, cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match=r"^1 blocks, seed 0 cannot be submitted: .*no partition moon.*--(sbatch|k8s)"):
      cluster.run("refuse")
    assert len(cluster.commands(cluster.submit)) == 1

  def test_the_same_command_submits_the_runs_that_were_rejected(self, slurm_cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match="^2 blocks, seed 0 cannot be submitted") as caught:
      slurm_cluster.run("limit")
    assert "\n" not in str(caught.value)
    assert statuses(launch) == ["finished", "not yet run", "not yet run"]
    assert slurm_cluster.run() == 0
    assert launch.calls() == ["1", "2", "3"]

  def test_a_rejected_run_is_retried_while_others_are_active(
    self, slurm_cluster: Cluster, launch: Launch, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("busy") == 0
    assert launch.calls() == ["1", "2", "3"]
    output = capfd.readouterr().err
    assert "warning: 2 blocks, seed 0 cannot be submitted: no partition moon" in output
    assert output.count("warning") == 2

  def test_names_the_jobs_that_were_submitted_before_a_rejection(self, slurm_cluster: Cluster, launch: Launch) -> None:
    with pytest.raises(UserError, match="^2 blocks, seed 0 cannot be submitted") as caught:
      slurm_cluster.run("busy", wait=False)
    assert "; 1 job continues; to cancel: scancel 1; run the same command to continue" in str(caught.value)
    assert statuses(launch) == ["not yet run"] * 3

  def test_active_jobs_are_adopted_before_a_rejection(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    slurm_cluster.set_state("1", "CANCELLED")
    with pytest.raises(UserError, match="^1 blocks, seed 0 cannot be submitted: .*; 2 jobs continue; .*scancel 2 3;"):
      slurm_cluster.run("busy", "held", wait=False)
    assert slurm_cluster.run("busy") == 0
    assert launch.calls() == ["2", "3", "1"]

  def test_names_a_missing_command(self, cluster: Cluster) -> None:
    name = "sbatch" if cluster.kind == "slurm" else "kubectl"
    cluster.remove(name)
    with pytest.raises(UserError, match=f"^{name}: command not found; ") as caught:
      cluster.run()
    assert "\n" not in str(caught.value)

  def test_submits_nothing_while_states_are_unknown(self, cluster: Cluster) -> None:
    cluster.run("held", wait=False)
    with pytest.raises(UserError, match="no answer from the controller") as caught:
      cluster.run("mute", wait=False)
    assert caught.value.status == 2
    assert len(cluster.commands(cluster.submit)) == 3

  def test_an_unanswered_first_query_is_repeated(self, slurm_cluster: Cluster, launch: Launch) -> None:
    slurm_cluster.run("held", wait=False)
    assert slurm_cluster.run("deaf") == 0
    assert len(slurm_cluster.commands(slurm_cluster.submit)) == 3
    assert launch.calls() == ["1", "2", "3"]

  def test_names_a_damaged_record(self, slurm_cluster: Cluster) -> None:
    slurm_cluster.run("held", wait=False)
    record = min(slurm_cluster.jobs.glob("*.json"))
    record.write_text("{}")
    with pytest.raises(UserError, match="job: missing; check that no job of this run is queued") as caught:
      slurm_cluster.run()
    assert str(caught.value).startswith(str(record))


def test_rejects_a_sweep_that_is_already_running(slurm_cluster: Cluster, launch: Launch) -> None:
  with locks.acquire(launch.workdir / "blocks" / "lock"):
    with pytest.raises(UserError, match=r"blocks: process \d+ on .* is running in this folder") as caught:
      slurm_cluster.run()
    assert caught.value.status == 2
    with pytest.raises(UserError, match="is running in this folder"):
      launch.run()
  assert slurm_cluster.commands("sbatch") == []
  assert slurm_cluster.run() == 0


def test_a_record_of_an_earlier_version_is_read(slurm_cluster: Cluster, launch: Launch) -> None:
  slurm_cluster.run("held", wait=False)
  record = min(slurm_cluster.jobs.glob("*.json"))
  content = json.loads(record.read_text())
  record.write_text(json.dumps({"place" if key == "cluster" else key: value for key, value in content.items()}))
  assert slurm_cluster.run() == 0
  assert len(slurm_cluster.commands("sbatch")) == 3
