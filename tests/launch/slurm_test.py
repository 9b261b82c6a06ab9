"""launch/slurm.sbatch with fakes of srun and scontrol, and JAX's detection of SLURM in the resulting environment."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from jax._src.clusters import SlurmCluster

from tests.launch.environment_test import ROOT, assert_one_line_error

SCRIPT = ROOT / "launch" / "slurm.sbatch"
CONFIG = "--config=configs/hsic.py:demo"
BASH = shutil.which("bash")

# Fake srun: runs the program once per task, one after the other, with the variables of the real srun that JAX and the
# script read; like the real one it exits with the highest status.
SRUN = f"""#!{BASH}
echo "srun $*" >>"$LOG"
for flag in "$@"; do
  case "$flag" in
    --ntasks=*) tasks="${{flag#*=}}" ;;
    --ntasks-per-node=*) per_node="${{flag#*=}}" ;;
    --nodes=*) nodes="${{flag#*=}}" ;;
    --*) ;;
    *) break ;;
  esac
  shift
done
highest=0
for ((task = 0; task < tasks; task++)); do
  SLURM_STEP_NODELIST="node[001-00$nodes]" SLURM_STEP_NUM_NODES="$nodes" SLURM_NTASKS="$tasks" SLURM_PROCID="$task" \\
    SLURM_LOCALID=$((task % per_node)) SLURMD_NODENAME="node00$((task / per_node + 1))" "$@" && status=0 || status=$?
  if ((status > highest)); then highest=$status; fi
done
exit "$highest"
"""
SCONTROL = f"""#!{BASH}
echo "scontrol $*" >>"$LOG"
case "$*" in
  *show*) echo "JobId=4242 JobName=fer_jax JobState=${{STATE:-RUNNING}} Reason=None" ;;
  requeue*) exit "${{REQUEUE_STATUS:-0}}" ;;
esac
"""
PYTHON = f"""#!{BASH}
echo "python ${{JAX_LOCAL_DEVICE_IDS-}};${{JAX_PLATFORMS-}};${{JAX_NUM_CPU_DEVICES-}};$PWD;$*" >>"$LOG"
env | grep ^SLURM_ | sort >"$LOG.$SLURM_PROCID"
exit "${{STATUS:-0}}"
"""


class Job:
  """A SLURM job, whose script is in SLURM's spool folder, with an environment in `venv`."""

  def __init__(self, folder: Path):
    self.folder, self.log, self.venv, spool = folder, folder / "log", folder / "venv", folder / "spool"
    for path, text in (("bin/srun", SRUN), ("bin/scontrol", SCONTROL), ("venv/bin/python", PYTHON)):
      (folder / path).parent.mkdir(parents=True, exist_ok=True)
      (folder / path).write_text(text)
      (folder / path).chmod(0o755)
    spool.mkdir()
    self.script = shutil.copy(SCRIPT, spool / "slurm_script")

  def run(
    self, *arguments: str, nodes: int = 1, gpus: int | None = None, **variables: str
  ) -> subprocess.CompletedProcess[str]:
    job = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_SUBMIT_DIR": str(ROOT)}
    if gpus is not None:
      job["SLURM_GPUS_ON_NODE"] = str(gpus)
    path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "LOG": str(self.log), "FER_JAX_VENV": str(self.venv), **job, **variables}
    return subprocess.run(
      ["bash", self.script, *(arguments or ("--", CONFIG))],
      cwd=self.folder,
      env=environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
    )

  def calls(self, program: str) -> list[str]:
    """Returns the arguments of all calls of a program, in order."""
    lines = self.log.read_text().splitlines() if self.log.exists() else []
    return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

  def task(self, number: int) -> dict[str, str]:
    """Returns the SLURM variables of a task."""
    lines = Path(f"{self.log}.{number}").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def job(tmp_path: Path) -> Job:
  return Job(tmp_path)


class TestProcesses:
  def test_one_process_per_node_uses_all_its_gpus(self, job: Job) -> None:
    done = job.run("--", CONFIG, "--workdir=a b", nodes=2, gpus=4)
    assert (done.returncode, done.stderr) == (0, "")
    flags = f"-m fer_jax.main {CONFIG} --workdir=a b --processes=auto"
    assert job.calls("python") == [f"0,1,2,3;;;{ROOT};{flags}"] * 2
    step = job.calls("srun")[-1]
    assert step.startswith("--nodes=2 --ntasks=2 --ntasks-per-node=1 ")
    assert "--kill-on-bad-exit=0" in step

  def test_one_process_per_gpu_sees_all_gpus_of_the_node(self, job: Job) -> None:
    assert job.run("--per=gpu", "--", CONFIG, nodes=2, gpus=4).returncode == 0
    assert job.calls("python") == [f";;;{ROOT};-m fer_jax.main {CONFIG} --processes=auto"] * 8
    assert job.calls("srun")[-1].startswith("--nodes=2 --ntasks=8 --ntasks-per-node=4 ")
    assert "--gpu-bind=none" in job.calls("srun")[-1]

  @pytest.mark.parametrize("gpus", [None, 0])
  def test_without_gpus_one_process_per_node_uses_one_cpu_device(self, job: Job, gpus: int | None) -> None:
    assert job.run(nodes=2, gpus=gpus).returncode == 0
    assert job.calls("python") == [f";cpu;1;{ROOT};-m fer_jax.main {CONFIG} --processes=auto"] * 2
    assert "--gpu" not in job.calls("srun")[-1]

  def test_single_process_needs_no_coordinator(self, job: Job) -> None:
    assert job.run(gpus=2).returncode == 0
    assert job.calls("python") == [f"0,1;;;{ROOT};-m fer_jax.main {CONFIG}"]
    assert len(job.calls("srun")) == 1

  def test_does_not_limit_the_cores_of_a_process(self, job: Job) -> None:
    assert job.run("--per=gpu", "--", CONFIG, gpus=2, SLURM_CPUS_PER_TASK="32").returncode == 0
    assert "SLURM_CPUS_PER_TASK" not in job.task(0)
    assert "--cpus-per-task" not in job.calls("srun")[-1]

  def test_removes_the_limits_of_newer_slurm_versions(self, job: Job) -> None:
    limits = {"SLURM_TRES_PER_TASK": "cpu=32", "SLURM_NTASKS_PER_GPU": "1"}
    assert job.run("--per=gpu", "--", CONFIG, gpus=2, **limits).returncode == 0
    assert not limits.keys() & job.task(0).keys()

  def test_counts_gpus_from_cuda_visible_devices(self, job: Job) -> None:
    job.run(CUDA_VISIBLE_DEVICES="5,7,6")
    assert job.calls("python")[0].startswith("0,1,2;")


class TestDetection:
  """JAX's SlurmCluster in the environment of each task."""

  @pytest.mark.parametrize(("per", "gpus", "count"), [("node", 4, 2), ("gpu", 2, 4), ("node", None, 2)])
  def test_jax_detects_coordinator_process_count_and_process_id(
    self, job: Job, monkeypatch: pytest.MonkeyPatch, per: str, gpus: int | None, count: int
  ) -> None:
    assert job.run(f"--per={per}", "--", CONFIG, nodes=2, gpus=gpus).returncode == 0
    for number in range(count):
      for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
      for name, value in job.task(number).items():
        monkeypatch.setenv(name, value)
      assert SlurmCluster.is_env_present()
      address = SlurmCluster.get_coordinator_address(None, None)
      assert re.fullmatch(r"node001:\d+", address)
      assert SlurmCluster.get_process_count() == count
      assert SlurmCluster.get_process_id() == number
      assert SlurmCluster.get_local_process_id() == (number % gpus if per == "gpu" and gpus else 0)


class TestRequeue:
  def test_requeues_after_a_stop(self, job: Job) -> None:
    done = job.run(STATUS="143", nodes=2)
    assert done.returncode == 143
    assert job.calls("scontrol") == ["--oneliner show job 4242", "requeue 4242"]
    assert "the job was requeued (1 of 50)" in done.stdout

  @pytest.mark.parametrize("status", [0, 1, 2, 130, 137])
  def test_does_not_requeue_after_other_exit_statuses(self, job: Job, status: int) -> None:
    assert job.run(STATUS=str(status)).returncode == status
    assert job.calls("scontrol") == []

  @pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED"])
  def test_does_not_requeue_a_job_that_is_no_longer_running(self, job: Job, state: str) -> None:
    assert job.run(STATUS="143", STATE=state).returncode == 143
    assert job.calls("scontrol") == ["--oneliner show job 4242"]

  def test_does_not_requeue_beyond_the_limit(self, job: Job) -> None:
    done = job.run("--restarts=3", "--", CONFIG, STATUS="143", SLURM_RESTART_COUNT="3")
    assert (done.returncode, job.calls("scontrol")) == (143, ["--oneliner show job 4242"])
    assert "--restarts=3 is reached" in done.stderr
    job.run("--restarts=3", "--", CONFIG, STATUS="143", SLURM_RESTART_COUNT="2")
    assert job.calls("scontrol")[-1] == "requeue 4242"

  def test_reports_that_slurm_does_not_respond(self, job: Job) -> None:
    (job.folder / "bin" / "scontrol").write_text(f"#!{BASH}\nexit 1\n")
    done = job.run(STATUS="143")
    assert done.returncode == 143
    assert "run the same sbatch command to resume" in done.stderr

  def test_log_marks_restarts(self, job: Job) -> None:
    assert "begins again" not in job.run(SLURM_RESTART_COUNT="0").stdout
    assert job.run(SLURM_RESTART_COUNT="2").stdout.startswith("begins again (2 of 50)\n")

  def test_reports_that_slurm_did_not_requeue(self, job: Job) -> None:
    done = job.run(STATUS="143", REQUEUE_STATUS="1")
    assert done.returncode == 143
    assert "SLURM did not requeue the job" in done.stderr

  def test_script_waits_for_the_processes_after_a_signal(self, job: Job) -> None:
    python = job.venv / "bin" / "python"
    python.write_text(f"#!{BASH}\nkill -TERM $PPID_OF_SCRIPT\nsleep 0.3\nexit 143\n")
    script = Path(job.script)
    script.write_text(script.read_text().replace("set -euo pipefail", "set -euo pipefail\nexport PPID_OF_SCRIPT=$$", 1))
    assert job.run().returncode == 143
    assert job.calls("scontrol")[-1] == "requeue 4242"


class TestUsageErrors:
  @pytest.mark.parametrize(
    ("arguments", "part"),
    [
      (["--per=core", "--", CONFIG], "--per=core: expected --per=node or --per=gpu"),
      (["--nodes=2", "--", CONFIG], "--nodes=2: unknown"),
      (["--restarts=x", "--", CONFIG], "--restarts=x"),
      (["--restarts=08", "--", CONFIG], "--restarts=08"),
      ([CONFIG], "unknown"),
      (["--"], "no flags after --"),
      (["--", CONFIG, "--processes=2"], "--processes=2: set by this script"),
      (["--per=gpu", "--", CONFIG], "--per=gpu: the job has no GPUs"),
      (["--venv=/nowhere", "--", CONFIG], "no Python at /nowhere/bin/python"),
    ],
  )
  def test_wrong_flags(self, job: Job, arguments: list[str], part: str) -> None:
    assert_one_line_error(job.run(*arguments), 2, part)
    assert not job.log.exists()

  def test_job_submitted_from_another_folder(self, job: Job) -> None:
    assert_one_line_error(job.run(SLURM_SUBMIT_DIR="/"), 2, "found no fer_jax/main.py in /", "repository's root")

  def test_gpus_bound_to_tasks(self, job: Job) -> None:
    assert_one_line_error(job.run(gpus=4, SLURM_GPUS_PER_TASK="1"), 2, "--gpus-per-task", "--gpus-per-node")
    for given in ("cpu=8,gres/gpu=1", "cpu:8,gres/gpu:h100:1", "cpu=8,gres:gpu:1"):
      assert_one_line_error(job.run(gpus=4, SLURM_TRES_PER_TASK=given), 2, "--gpus-per-task", "--gpus-per-node")

  def test_environment_that_is_missing_on_a_node(self, job: Job) -> None:
    srun = job.folder / "bin" / "srun"
    srun.write_text(f"#!{BASH}\necho node002\n")
    assert_one_line_error(job.run(nodes=2), 2, "not found on node002", str(job.venv), "share")

  def test_outside_a_job(self, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
      ["bash", SCRIPT, "--", CONFIG], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert_one_line_error(done, 2, "not in a SLURM job", "sbatch")


class TestDryRun:
  def test_outside_slurm_uses_one_node(self, tmp_path: Path) -> None:
    done = subprocess.run(
      ["bash", SCRIPT, "--dry-run", "--", CONFIG, "a  b"],
      cwd=tmp_path,
      env={"PATH": os.environ["PATH"]},
      capture_output=True,
      text=True,
      check=True,
    )
    words = shlex.split(done.stdout)
    assert words[:7] == ["cd", str(ROOT), "&&", "env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=1", "srun"]
    assert words[-5:] == [f"{ROOT}/.venv/bin/python", "-m", "fer_jax.main", CONFIG, "a  b"]

  def test_prints_the_command_that_is_run(self, job: Job) -> None:
    done = job.run("--dry-run", "--", CONFIG, nodes=2, gpus=4)
    assert not job.log.exists()
    job.run("--", CONFIG, nodes=2, gpus=4)
    printed = shlex.split(done.stdout)
    assert " ".join(printed[printed.index("srun") + 1 :]) == job.calls("srun")[-1]
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3" in printed


def test_sbatch_options_precede_the_first_command() -> None:
  """sbatch reads options up to the first command; --signal without `B:` signals the processes, not only the script."""
  head = SCRIPT.read_text().split("set -euo pipefail", 1)[0]
  options = re.findall(r"^#SBATCH (\S+)$", head, re.MULTILINE)
  assert options == re.findall(r"^#SBATCH (\S+)$", SCRIPT.read_text(), re.MULTILINE)
  assert {"--requeue", "--open-mode=append", "--signal=TERM@120"} <= set(options)
