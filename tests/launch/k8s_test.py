"""launch/k8s/train.sh: manifests checked against the published schemas and with JAX's detection of Kubernetes."""

import os
import re
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from jax._src.clusters import K8sCluster

from tests.launch.environment_test import ROOT, assert_one_line_error

SCRIPT = ROOT / "launch" / "k8s" / "train.sh"
CONFIG = "--config=configs/hsic.py:demo"
REQUIRED = ("--name=faces", "--image=registry.example/fer_jax:1")
VARIANTS = {
  "one pod": [*REQUIRED],
  "two pods with GPUs": [*REQUIRED, "--nodes=2", "--gpus=8", "--cpus=32", "--memory=200Gi"],
  "a namespace and a storage class": [*REQUIRED, "--namespace=123", "--storage=1Ti", "--storage-class=shared.fast"],
  "an existing claim": [*REQUIRED, "--nodes=2", "--claim=true"],
}


def train(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
  command = [str(shutil.which("bash")), str(SCRIPT), *arguments]
  return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)


def render(*arguments: str) -> dict[str, Any]:
  """Returns the objects that --dry-run prints, by kind."""
  done = train(*arguments, "--dry-run", "--", CONFIG)
  assert (done.returncode, done.stderr) == (0, "")
  return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def job_of(objects: dict[str, Any]) -> dict[str, Any]:
  (replicated,) = objects["JobSet"]["spec"]["replicatedJobs"]
  return replicated["template"]


def container_of(objects: dict[str, Any]) -> dict[str, Any]:
  (container,) = job_of(objects)["spec"]["template"]["spec"]["containers"]
  return container


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())
class TestSchema:
  def test_core_objects_are_valid(self, arguments: list[str]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    objects = render(*arguments)
    jobset = objects.pop("JobSet")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "faces"}, **job_of({"JobSet": jobset})}
    for each in (*objects.values(), job):
      kubernetes_validate.validate(each, "1.31", strict=True)

  def test_job_set_is_valid(self, arguments: list[str]) -> None:
    models = pytest.importorskip(
      "kubeflow_trainer_api.models.jobset_v1alpha2_job_set", reason="needs the package kubeflow-trainer-api"
    )
    jobset = render(*arguments)["JobSet"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    # The models drop unknown fields, so that a misspelt one would be missing.
    assert models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset


class TestManifest:
  def test_runs_one_pod_per_node_with_all_its_gpus(self) -> None:
    objects = render(*VARIANTS["two pods with GPUs"])
    job = job_of(objects)["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)
    container = container_of(objects)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["args"] == [CONFIG, "--workdir=/storage/workdir/faces", "--processes=auto"]
    assert "JAX_PLATFORMS" not in {variable["name"] for variable in container["env"]}

  def test_runs_one_pod_on_the_cpu_by_default(self) -> None:
    container = container_of(render(*REQUIRED))
    assert "limits" not in container["resources"]
    assert {"name": "JAX_PLATFORMS", "value": "cpu"} in container["env"]
    assert container["args"] == [CONFIG, "--workdir=/storage/workdir/faces"]

  def test_creates_a_volume_claim_or_uses_an_existing_one(self) -> None:
    objects = render(*REQUIRED, "--storage=5Gi", "--storage-class=shared")
    claim = objects["PersistentVolumeClaim"]["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]
    assert (claim["resources"]["requests"]["storage"], claim["storageClassName"]) == ("5Gi", "shared")
    assert "storageClassName" not in render(*REQUIRED)["PersistentVolumeClaim"]["spec"]
    for manifest, name in ((objects, "faces"), (render(*REQUIRED, "--claim=mine"), "mine")):
      volumes = {volume["name"]: volume for volume in job_of(manifest)["spec"]["template"]["spec"]["volumes"]}
      assert volumes["storage"] == {"name": "storage", "persistentVolumeClaim": {"claimName": name}}
      assert {"name": "storage", "mountPath": "/storage"} in container_of(manifest)["volumeMounts"]
    assert "PersistentVolumeClaim" not in render(*REQUIRED, "--claim=mine")

  def test_passes_flags_to_the_program_unchanged(self) -> None:
    flags = ['a "b" \\c', "$HOME $(NAME) $$", "# no: comment", "- x", "--workdir=/storage/other"]
    done = train(*REQUIRED, "--dry-run", "--", CONFIG, *flags)
    *_, jobset = yaml.safe_load_all(done.stdout)
    # Kubernetes replaces two dollar signs by one.
    passed = [argument.replace("$$", "$") for argument in container_of({"JobSet": jobset})["args"]]
    assert passed == [CONFIG, *flags]
    assert "$(" not in done.stdout.replace("$$(", "")

  def test_restarts_all_pods_except_after_a_usage_error(self) -> None:
    objects = render(*REQUIRED, "--restarts=7")
    job, policy = job_of(objects)["spec"], objects["JobSet"]["spec"]["failurePolicy"]
    (rule,) = job["podFailurePolicy"]["rules"]
    name = container_of(objects)["name"]
    assert rule == {"action": "FailJob", "onExitCodes": {"containerName": name, "operator": "In", "values": [2]}}
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]  # the Job's reason if that rule applies
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert (policy["maxRestarts"], job["backoffLimit"]) == (7, 0)
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # required by a Job's failure policy
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 60

  def test_all_objects_are_in_the_namespace(self) -> None:
    for each in render(*VARIANTS["a namespace and a storage class"]).values():
      assert each["metadata"]["namespace"] == "123"
    assert all("namespace" not in each["metadata"] for each in render(*REQUIRED).values())

  def test_longest_name_fits_the_limit_of_pod_names(self) -> None:
    name = "n" * 40
    assert len(f"{render(f'--name={name}', REQUIRED[1])['JobSet']['metadata']['name']}-trainer-0-9999-abcde") <= 63

  def test_image_contains_the_program(self) -> None:
    text = (ROOT / "launch" / "k8s" / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert {"fer_jax", "configs", "requirements.txt", "requirements-cpu.txt"} == set(copied)
    assert all((ROOT / path).exists() for path in copied)
    assert "jax[k8s]" in text


class Cluster:
  """Fake of the Kubernetes API for one pod of a rendered JobSet, with the names and labels that the controllers assign.

  Attributes:
    requests: Requests (verb, resource) so far.
  """

  def __init__(self, objects: dict[str, Any], index: int):
    jobset = objects["JobSet"]
    name = jobset["metadata"]["name"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job_name = f"{name}-{replicated['name']}-0"
    labels = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"]}
    job = replicated["template"]["spec"]
    self.hostname = f"{job_name}-{index}"
    self.job_name, self.index, self.requests = job_name, index, set[tuple[str, str]]()
    self.job = SimpleNamespace(
      metadata=SimpleNamespace(name=job_name, labels=labels), spec=SimpleNamespace(parallelism=job["parallelism"])
    )
    self.pod = SimpleNamespace(
      metadata=SimpleNamespace(
        name=f"{self.hostname}-x2k4q",
        labels={**labels, "job-name": job_name, "batch.kubernetes.io/job-completion-index": str(index)},
        owner_references=[SimpleNamespace(kind="Job", name=job_name, controller=True)],
      ),
      spec=SimpleNamespace(subdomain=jobset["spec"]["network"]["subdomain"]),
    )
    # Names in the cluster's DNS: the host name of each pod in the domain of the set's headless service.
    self.names = {f"{job_name}-{i}.{self.pod.spec.subdomain}" for i in range(job["completions"])}

  def list_namespaced_pod(self, namespace: str, field_selector: str) -> SimpleNamespace:
    self.requests.add(("list", "pods"))
    assert (namespace, field_selector) == ("training", "status.podIP=10.0.0.7")
    return SimpleNamespace(items=[self.pod])

  def list_namespaced_service(self, namespace: str) -> SimpleNamespace:
    self.requests.add(("list", "services"))
    return SimpleNamespace(items=[])

  def read_namespaced_job(self, name: str, namespace: str) -> SimpleNamespace:
    self.requests.add(("get", "jobs"))
    assert (name, namespace) == (self.job_name, "training")
    return self.job

  def resolve(self, host: str) -> str:
    if host != self.hostname and host not in self.names:
      raise socket.gaierror(host)
    return "10.0.0.7"

  def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("kubernetes")
    package.config = SimpleNamespace(load_incluster_config=lambda: None)  # type: ignore[attr-defined]
    exceptions = SimpleNamespace(ApiException=type("ApiException", (Exception,), {}))
    client = SimpleNamespace(CoreV1Api=lambda: self, BatchV1Api=lambda: self, exceptions=exceptions)
    package.client = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kubernetes", package)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", self.hostname)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(self.index))
    monkeypatch.setattr(socket, "gethostbyname", self.resolve)
    monkeypatch.setattr(K8sCluster, "_namespace", lambda: "training")


class TestDetection:
  """JAX's K8sCluster in each pod."""

  @pytest.fixture(autouse=True)
  def _clear_caches(self) -> Iterator[None]:
    cached = [K8sCluster.__dict__[name].__func__ for name in ("_pod", "_job", "_headless_svc", "_controller")]
    for each in cached:
      each.cache_clear()
    yield
    for each in cached:
      each.cache_clear()

  @pytest.mark.parametrize("index", [0, 1])
  def test_jax_detects_coordinator_process_count_and_process_id(
    self, monkeypatch: pytest.MonkeyPatch, index: int
  ) -> None:
    objects = render(*VARIANTS["two pods with GPUs"])
    cluster = Cluster(objects, index)
    cluster.install(monkeypatch)
    assert K8sCluster.is_env_present()
    host, port = K8sCluster.get_coordinator_address(None, None).split(":")
    assert host == "faces-trainer-0-0.faces"
    assert cluster.resolve(host) and port.isdigit()
    assert K8sCluster.get_process_count() == 2
    assert K8sCluster.get_process_id() == index
    assert K8sCluster.get_local_process_id() is None  # the process of a pod uses all its GPUs

    rules = objects["Role"]["rules"]
    allowed = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    assert {("list", "pods"), ("get", "jobs")} <= cluster.requests <= allowed
    assert objects["RoleBinding"]["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    (subject,) = objects["RoleBinding"]["subjects"]
    account = job_of(objects)["spec"]["template"]["spec"]["serviceAccountName"]
    assert subject["name"] == account == objects["ServiceAccount"]["metadata"]["name"]


class TestUsageErrors:
  @pytest.mark.parametrize(
    ("arguments", "part"),
    [
      ([REQUIRED[1]], "--name=: expected"),
      ([REQUIRED[0]], "--image=: expected"),
      (["--name=Faces", REQUIRED[1]], "--name=Faces"),
      (["--name=" + "n" * 41, REQUIRED[1]], "at most 40"),
      ([REQUIRED[0], "--image=a b"], "--image=a b"),
      ([REQUIRED[0], '--image=a"b'], '--image=a"b'),
      ([*REQUIRED, "--nodes=0"], "--nodes=0"),
      ([*REQUIRED, "--gpus=all"], "--gpus=all"),
      ([*REQUIRED, "--gpus=08"], "--gpus=08"),
      ([*REQUIRED, "--restarts=007"], "--restarts=007"),
      ([*REQUIRED, "--memory=16 GB"], "--memory=16 GB"),
      ([*REQUIRED, "--storage=big"], "--storage=big"),
      ([*REQUIRED, "--storage-class=A_B"], "--storage-class=A_B"),
      ([*REQUIRED, "--namespace=a.b"], "--namespace=a.b"),
      ([*REQUIRED, "--pods=2"], "--pods=2: unknown"),
      ([*REQUIRED], "no flags after --"),
      ([*REQUIRED, "--", CONFIG, "--processes=2"], "--processes=2: set by this script"),
      ([*REQUIRED, "--", CONFIG, "a\nb"], "line break"),
    ],
  )
  def test_error_is_one_line(self, arguments: list[str], part: str) -> None:
    done = train(*arguments, *([] if "--" in arguments or "no flags" in part else ["--", CONFIG]))
    assert_one_line_error(done, 2, part)
    assert done.stdout == ""


class TestApply:
  @pytest.fixture
  def kubectl(self, tmp_path: Path) -> Path:
    """Returns a folder for PATH with the programs that the script calls; `add` adds kubectl."""
    for tool in ("cat", "sed"):
      (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path

  def add(self, folder: Path, get: str) -> None:
    """Adds a kubectl that logs its calls, stores its input in `applied`, and runs the command `get` for a get."""
    cat = f"case \"$*\" in *get*) {get} ;; *) cat >'{folder}/applied' ;; esac"
    (folder / "kubectl").write_text(f"#!{shutil.which('bash')}\necho \"$*\" >>'{folder}/calls'\n{cat}\n")
    (folder / "kubectl").chmod(0o755)

  def test_applies_what_a_dry_run_prints(self, kubectl: Path) -> None:
    self.add(kubectl, ":")
    done = train(*REQUIRED, "--namespace=lab", "--", CONFIG, path=str(kubectl))
    assert (done.returncode, done.stderr) == (0, "")
    assert (kubectl / "applied").read_text() == train(*REQUIRED, "--namespace=lab", "--dry-run", "--", CONFIG).stdout
    assert (kubectl / "calls").read_text().splitlines()[-1] == "--namespace=lab apply -f -"
    assert "logs --follow" in done.stdout

  def test_rejects_the_name_of_an_existing_set(self, kubectl: Path) -> None:
    self.add(kubectl, "echo jobset.jobset.x-k8s.io/faces")
    done = train(*REQUIRED, "--", CONFIG, path=str(kubectl))
    assert_one_line_error(
      done, 2, "jobset.jobset.x-k8s.io/faces exists already", "kubectl delete jobset --cascade=foreground faces"
    )
    assert not (kubectl / "applied").exists()

  def test_reports_a_cluster_without_jobset_controller(self, kubectl: Path) -> None:
    self.add(kubectl, "exit 1")
    assert_one_line_error(train(*REQUIRED, "--", CONFIG, path=str(kubectl)), 1, "no JobSet controller")

  def test_reports_missing_kubectl(self, kubectl: Path) -> None:
    assert_one_line_error(train(*REQUIRED, "--", CONFIG, path=str(kubectl)), 2, "found no kubectl")
