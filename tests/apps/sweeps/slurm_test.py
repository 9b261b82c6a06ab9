"""Commands for SLURM and their output; tests/apps/sweeps/queues_test.py runs whole sweeps."""

import shlex
import subprocess
from pathlib import Path

import pytest

from fer_jax.apps.sweeps.plan import PlannedRun
from fer_jax.apps.sweeps.slurm import Slurm, job_name
from fer_jax.runtime.errors import UserError

from .conftest import ROOT, Cluster, Launch


def test_command_of_a_run(launch: Launch, slurm_cluster: Cluster) -> None:
  run = launch.plan().runs[1]
  flags = ["--nodes=2", "--gpus-per-node=8", "--", "--per=gpu"]
  command = Slurm(flags, launch.workdir / "100%" / "jobs").command(run, "7")
  script = command.index("--gpus-per-node=8") + 5
  assert command[:script] == [
    "sbatch",
    "--parsable",
    "--nodes=2",
    "--gpus-per-node=8",
    f"--job-name={job_name(run)}",
    f"--output={launch.workdir}/100%%/jobs/{run.workdir.name}.%j.log",
    "--dependency=afterok:7",
    "--kill-on-invalid-dep=yes",
  ]
  assert command[script].endswith("slurm.sbatch")
  assert command[script + 1 :] == ["--per=gpu", "--", *run.arguments]
  assert not any("depend" in word for word in Slurm([], launch.workdir).command(run, None))


def test_script_accepts_the_command(launch: Launch) -> None:
  run = launch.plan("--config.duration=2 steps").runs[1]
  command = Slurm(["--nodes=1", "--", "--per=node"], launch.workdir).command(run, None)
  script = command.index("launch/slurm.sbatch")
  shown = ["bash", command[script], "--dry-run", *command[script + 1 :]]
  done = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
  words = shlex.split(done.stdout)
  main = words.index("fer_jax.main") + 1
  assert tuple(words[main : main + len(run.arguments)]) == run.arguments


@pytest.mark.parametrize(
  "flag",
  [
    "--output=x",
    "-o",
    "--dependency=afterok:1",
    "--array=0-3",
    "--wrap",
    "launch/x",
    "--depend=afterok:1",
    "--job=x",
    "-dafterok:1",
    "-Hdafterok:1",
    "-ofile",
  ],
)
def test_rejects_flags_that_the_sweep_sets(launch: Launch, flag: str) -> None:
  with pytest.raises(UserError, match=r"^--sbatch: ") as caught:
    Slurm(["--nodes=1", flag], launch.workdir)
  assert flag in str(caught.value)


class TestEndOfAJob:
  @pytest.mark.parametrize("conditions", [("short",), ("short", "unbooked")])
  def test_a_result_counts_even_if_no_command_lists_the_job(
    self, slurm_cluster: Cluster, conditions: tuple[str, ...]
  ) -> None:
    assert slurm_cluster.run(*conditions) == 0

  def test_a_failure_is_read_from_sacct(self, slurm_cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    assert slurm_cluster.run("short", "timeout") == 1
    assert "1 blocks, seed 0: failed: job 1 ended as TIMEOUT\n" in capfd.readouterr().out
    assert slurm_cluster.commands("sacct")[0][-1] == "--jobs=1,2,3"

  def test_a_failure_without_accounting_is_read_from_the_log(
    self, slurm_cluster: Cluster, capfd: pytest.CaptureFixture[str]
  ) -> None:
    assert slurm_cluster.run("short", "unbooked", blocks1="fail") == 1
    message = "1 blocks, seed 0: failed: job 1 is no longer in the queue: training diverged: loss is nan\n"
    assert message in capfd.readouterr().out

  def test_sacct_is_optional(self, slurm_cluster: Cluster) -> None:
    slurm_cluster.remove("sacct")
    assert slurm_cluster.run("short") == 0


class TestLastMessage:
  """The explanation of a job's end in its log, which also contains earlier starts of a requeued job."""

  def last_message(self, folder: Path, text: str, state: str = "FAILED") -> str:
    (folder / "name.7.log").write_text(text)
    run = PlannedRun("candidate", 0, folder / "runs" / "name", ())
    return Slurm([], folder).last_message("7", run, state)

  def test_an_error_of_one_process_has_lower_priority(self, tmp_path: Path) -> None:
    log = "error: training diverged\n[1] error: process 1 of 2: process 0 says what is wrong\n"
    assert self.last_message(tmp_path, log) == "training diverged"
    assert self.last_message(tmp_path, "error: process 1 of 2: no memory\nsrun: ended\n") == "process 1 of 2: no memory"

  def test_only_the_last_start_counts(self, tmp_path: Path) -> None:
    log = "error: process 0 of 2: lost\nbegins again (1 of 50)\nloss 1.2\nKilled\n"
    assert self.last_message(tmp_path, log) == "Killed"

  def test_an_earlier_error_does_not_explain_an_end_by_slurm(self, tmp_path: Path) -> None:
    limit = "*** JOB 7 ON node1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***"
    log = f"error: training diverged\nslurmstepd: error: {limit}\n"
    assert self.last_message(tmp_path, log, "TIMEOUT") == limit
    assert self.last_message(tmp_path, "error: training diverged\n", "OUT_OF_MEMORY") == ""


def test_all_commands_are_for_the_cluster_of_the_flags(slurm_cluster: Cluster) -> None:
  assert slurm_cluster.run("short", "timeout", flags=("--clusters=far",)) == 1
  for name in ("sbatch", "squeue", "sacct"):
    assert all("--clusters=far" in call for call in slurm_cluster.commands(name))
  assert Slurm(["--clusters=far"], slurm_cluster.jobs).cancel(["7"]) == ["scancel", "--clusters=far", "7"]


def test_states_of_jobs(slurm_cluster: Cluster) -> None:
  slurm_cluster.run("held", wait=False)
  slurm_cluster.set_state("2", "CANCELLED")
  slurm_cluster.set_state("3", "COMPLETING")
  states = Slurm([], slurm_cluster.jobs).states(["1", "2", "3", "4"])
  assert {job: (state.name, state.ended, state.status) for job, state in states.items()} == {
    "1": ("queued", False, None),
    "2": ("CANCELLED", True, None),
    "3": ("running", False, None),
  }
