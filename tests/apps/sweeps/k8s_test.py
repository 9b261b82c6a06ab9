"""Commands for Kubernetes and their output; tests/apps/sweeps/queues_test.py runs whole sweeps."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from fer_jax.apps.sweeps import k8s
from fer_jax.apps.sweeps.k8s import Kubernetes, job_name
from fer_jax.runtime.errors import UserError

from .conftest import ROOT, Cluster, Launch


class TestJobNames:
  def test_names_are_unique_dns_labels(self, launch: Launch) -> None:
    runs = [*launch.plan(variant="three").runs, *launch.plan("--config.paper.title=É_x").runs]
    names = {job_name(run) for run in runs}
    assert len(names) == len(runs)
    for name in names:
      assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
      assert len(name) <= 40

  def test_names_depend_on_the_folder_of_sweeps(self, launch: Launch) -> None:
    before = {job_name(run) for run in launch.plan().runs}
    launch.workdir = launch.workdir.with_name("others")
    after = {job_name(run) for run in launch.plan("--config.batch_size=128").runs}
    assert not before & after


def test_command_of_a_run(launch: Launch, k8s_cluster: Cluster) -> None:
  run = launch.plan().runs[1]
  bash, script, *arguments = k8s_cluster.kubernetes("--image=i", "--gpus=1").command(run, None)
  assert bash == "bash"
  assert script.endswith("train.sh")
  assert arguments == [f"--name={job_name(run)}", "--claim=faces", "--image=i", "--gpus=1", "--", *run.arguments]


def test_script_accepts_the_command(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  storage = k8s.STORAGE
  monkeypatch.setattr(k8s, "STORAGE", tmp_path)
  run = launch.plan("--config.duration=2 steps").runs[1]
  command = Kubernetes(["--claim=faces", "--image=i"], launch.workdir).command(run, None)
  assert command[:2] == ["bash", "launch/k8s/train.sh"]
  done = subprocess.run([*command[:2], "--dry-run", *command[2:]], cwd=ROOT, capture_output=True, text=True, check=True)
  jobsets = [item for item in yaml.safe_load_all(done.stdout) if item["kind"] == "JobSet"]
  assert [item["metadata"]["name"] for item in jobsets] == [job_name(run)]
  pods = jobsets[0]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  assert tuple(pods["containers"][0]["args"]) == run.arguments
  assert {"name": "storage", "mountPath": str(storage)} in pods["containers"][0]["volumeMounts"]
  assert {"name": "storage", "persistentVolumeClaim": {"claimName": "faces"}} in pods["volumes"]


def test_kubectl_uses_the_namespace_of_the_jobs(launch: Launch, k8s_cluster: Cluster) -> None:
  assert k8s_cluster.run(flags=("--namespace=faces",), blocks1="fail") == 1
  for command in ("get", "delete", "logs"):
    assert k8s_cluster.commands(f"kubectl --namespace=faces {command}")
    assert not k8s_cluster.commands(f"kubectl {command}")
  cancel = k8s_cluster.kubernetes("--namespace=faces").cancel(["a"])
  assert cancel == ["kubectl", "--namespace=faces", "delete", "jobset", "--cascade=foreground", "a"]


def test_an_ended_jobset_is_deleted_before_it_is_created_again(k8s_cluster: Cluster) -> None:
  # The cluster rejects a JobSet that exists.
  assert k8s_cluster.run(blocks1="fail") == 1
  assert k8s_cluster.run() == 0


@pytest.mark.parametrize("flag", ["--name=x", "--dry-run", "--"])
def test_rejects_flags_that_the_sweep_sets(k8s_cluster: Cluster, flag: str) -> None:
  with pytest.raises(UserError, match=f"^--k8s: {flag}: .*leave it out"):
    k8s_cluster.kubernetes("--image=i", flag)


def test_rejects_runs_without_a_common_volume() -> None:
  with pytest.raises(UserError, match=r"^--k8s: expected --claim=CLAIM among its flags"):
    Kubernetes(["--image=i"], Path("/storage/sweeps"))
