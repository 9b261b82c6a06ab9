"""Choice of Python and installation by the scripts of launch/, with fakes of Python, pip and nvidia-smi."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "find", "grep", "ls", "mkdir", "rm", "sort", "tail")  # all programs that the scripts call

# Fake Python that logs calls with `-m`: venv makes a folder that contains this script, pip exits with FAKE_PIP_STATUS,
# and other modules are not run. FAKE_VERSION replaces the version. Other calls are those of the real Python.
FAKE_PYTHON = f"""#!{shutil.which("bash")}
if [[ "$1" == -c && "$2" == *version_info* && -n "${{FAKE_VERSION:-}}" ]]; then echo "$FAKE_VERSION"; exit 0; fi
if [[ "$1" == -c && "$2" == *ensurepip* && -n "${{FAKE_NO_VENV:-}}" ]]; then exit 1; fi
if [[ "$1" == -c ]]; then exec {sys.executable} "$@"; fi
echo "$0 $*" >>"$LOG"
case "$2" in
  venv) "$MKDIR" -p "$3/bin"; "$CP" "$0" "$3/bin/python" ;;
  pip) echo "pip output"; exit "${{FAKE_PIP_STATUS:-0}}" ;;
esac
"""

# Interpreters and their versions in the order of preference; only those in bin/ are on PATH.
PREFERENCE = (
  ("bin/python3.13", "3.13"),
  ("bin/python3", "3.13"),
  ("home/.pyenv/versions/3.13.10/bin/python", "3.13"),
  ("home/.pyenv/versions/3.13.2/bin/python", "3.13"),
  ("home/.pyenv/versions/3.12.1/bin/python", "3.12"),
  ("bin/python3.11", "3.11"),
  ("bin/python", "3.11"),
)


class Machine:
  """A machine with only TOOLS on PATH and an empty home folder; `run` runs a script of the checkout on it."""

  def __init__(self, folder: Path):
    self.bin, self.home, self.venv = folder / "bin", folder / "home", folder / "venv"
    self.log = folder / "log"
    self.bin.mkdir()
    self.home.mkdir()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(str(shutil.which(tool)))
    self.environment = {
      "PATH": str(self.bin),
      "HOME": str(self.home),
      "FER_JAX_VENV": str(self.venv),
      "LOG": str(self.log),
      "MKDIR": str(shutil.which("mkdir")),
      "CP": str(shutil.which("cp")),
    }

  def add(self, name: str, text: str = FAKE_PYTHON, folder: Path | None = None) -> Path:
    path = (folder or self.bin) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path

  def add_preference(self, index: int, *, has_venv: bool = True) -> Path:
    """Adds the interpreter with this index in PREFERENCE."""
    name, version = PREFERENCE[index]
    settings = f"FAKE_VERSION={version} FAKE_NO_VENV={'' if has_venv else 1}"
    return self.add(name, FAKE_PYTHON.replace("\n", f"\n{settings}\n", 1), self.bin.parent)

  def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      ["bash", str(ROOT / "launch" / script), *arguments],
      cwd=self.home,
      env={**self.environment, **variables},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
    )

  def calls(self, module: str) -> list[str]:
    """Returns the arguments of all calls of `python -m <module>`, in order."""
    lines = self.log.read_text().splitlines() if self.log.exists() else []
    return [line.split(f" -m {module} ", 1)[1] for line in lines if f" -m {module} " in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
  return Machine(tmp_path)


def assert_one_line_error(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
  """Asserts that a script failed with a one-line error message that contains all parts."""
  assert done.returncode == status, done.stderr
  assert done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1, done.stderr
  for part in parts:
    assert part in done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
class TestErrors:
  def test_interpreter_that_does_not_run(self, machine: Machine, script: str) -> None:
    machine.add("python3.12")
    done = machine.run(script, PYTHON="/nonexistent")
    assert_one_line_error(done, 2, "PYTHON=/nonexistent does not run", "Python 3.11")
    assert not machine.venv.exists()

  def test_unsupported_python_version(self, machine: Machine, script: str) -> None:
    python = str(machine.add("old"))
    assert_one_line_error(machine.run(script, PYTHON=python, FAKE_VERSION="3.10"), 2, "is Python 3.10")

  def test_no_interpreter(self, machine: Machine, script: str) -> None:
    done = machine.run(script)
    assert_one_line_error(done, 2, "Python 3.13, Python 3.12, Python 3.11", "apt install", "PYTHON=")

  def test_only_a_failing_shim_and_an_old_python(self, machine: Machine, script: str) -> None:
    machine.add("python3.12", "#!/bin/sh\necho 'python3.12: command not found' >&2\nexit 127\n")
    machine.add("python3")
    assert_one_line_error(machine.run(script, FAKE_VERSION="3.9"), 2, "found none of")

  def test_missing_module_venv(self, machine: Machine, script: str) -> None:
    python = machine.add("python3.12")
    done = machine.run(script, FAKE_VERSION="3.12", FAKE_NO_VENV="1")
    assert_one_line_error(done, 2, f"{python} (Python 3.12) has no module venv", "python3.12-venv")
    assert not machine.venv.exists()
    done = machine.run(script, PYTHON=str(python), FAKE_NO_VENV="1")
    assert_one_line_error(done, 2, f"{python} (Python 3.", "has no module venv")

  def test_failed_installation(self, machine: Machine, script: str) -> None:
    machine.add("python3")
    done = machine.run(script, FAKE_PIP_STATUS="1")
    assert done.returncode == 1
    pip, error = done.stderr.splitlines()
    assert pip == "pip output"
    assert error.startswith("error: the packages could not be installed")
    assert "network" in error
    assert machine.calls("pytest") == machine.calls("fer_jax.main") == []


class TestChoiceOfPython:
  def test_skips_a_failing_shim(self, machine: Machine) -> None:
    machine.add("python3.13", "#!/bin/sh\nexit 127\n")
    python = machine.add("python3")
    assert machine.run("test.sh").returncode == 0
    assert machine.log.read_text().startswith(f"{python} -m venv {machine.venv}\n")

  def test_finds_inactive_versions_of_pyenv(self, machine: Machine) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = machine.add("python", folder=machine.home / ".pyenv" / "versions" / f"{version}.1" / "bin")
    assert machine.run("test.sh").returncode == 0
    assert machine.log.read_text().startswith(f"{python} -m venv")

  @pytest.mark.parametrize("better", ["absent", "without venv"])
  @pytest.mark.parametrize("best", range(len(PREFERENCE)), ids=lambda index: PREFERENCE[index][0])
  def test_chooses_the_newest_working_interpreter(self, machine: Machine, best: int, better: str) -> None:
    for index in range(0 if better == "without venv" else best, len(PREFERENCE)):
      machine.add_preference(index, has_venv=index >= best)
    assert machine.run("test.sh").returncode == 0
    python = machine.bin.parent / PREFERENCE[best][0]
    assert machine.log.read_text().startswith(f"{python} -m venv {machine.venv}\n")

  def test_error_names_the_newest_interpreter_if_none_has_venv(self, machine: Machine) -> None:
    pyenv, _ = (machine.add_preference(index, has_venv=False) for index in (2, 5))
    assert_one_line_error(machine.run("test.sh"), 2, f"{pyenv} (Python 3.13) has no module venv")

  def test_variable_python_overrides_a_newer_interpreter(self, machine: Machine) -> None:
    newer, older = (machine.add_preference(index) for index in (0, 5))
    assert machine.run("test.sh", PYTHON=str(older)).returncode == 0
    assert machine.log.read_text().startswith(f"{older} -m venv")
    assert str(newer) not in machine.log.read_text()

  def test_keeps_an_environment_with_an_older_python(self, machine: Machine) -> None:
    machine.add_preference(5)
    assert machine.run("test.sh").returncode == 0
    machine.add_preference(0)
    assert machine.run("test.sh").returncode == 0
    assert len(machine.calls("venv")) == len(machine.calls("pip")) == 1


class TestInstall:
  def test_quickstart_installs_trains_and_passes_flags_on(self, machine: Machine) -> None:
    machine.add("python3")
    done = machine.run("quickstart.sh", "--config.seed=1", "a b")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip output" not in done.stdout
    (pip,) = machine.calls("pip")
    assert pip.startswith("install ")
    assert pip.endswith(f"-r {ROOT}/requirements-cpu.txt -e {ROOT}")
    workdir = f"--workdir={ROOT}/workdir/hsic_demo"
    assert machine.calls("fer_jax.main") == [f"--config=configs/hsic.py:demo {workdir} --config.seed=1 a b"]

  def test_test_script_installs_the_extra_and_passes_arguments_to_pytest(self, machine: Machine) -> None:
    machine.add("python3")
    machine.run("test.sh", "-m", "slow", "tests/losses")
    (pip,) = machine.calls("pip")
    assert pip.endswith(f"-r {ROOT}/requirements-cpu.txt -e {ROOT}[dev]")
    assert machine.calls("pytest") == ["-m not slow -n auto --maxprocesses=8 --dist=loadfile -m slow tests/losses"]

  def test_installs_gpu_requirements_if_there_is_a_gpu(self, machine: Machine) -> None:
    machine.add("python3")
    machine.add("nvidia-smi", "#!/bin/sh\nexit 0\n")
    machine.run("quickstart.sh")
    assert f"-r {ROOT}/requirements.txt " in machine.calls("pip")[0]

  def test_installs_cpu_requirements_if_the_driver_fails(self, machine: Machine) -> None:
    machine.add("python3")
    machine.add("nvidia-smi", "#!/bin/sh\nexit 9\n")
    machine.run("quickstart.sh")
    assert f"-r {ROOT}/requirements-cpu.txt " in machine.calls("pip")[0]

  def test_second_run_installs_nothing(self, machine: Machine) -> None:
    machine.add("python3")
    for _ in range(2):
      assert machine.run("quickstart.sh").returncode == 0
    assert len(machine.calls("venv")) == len(machine.calls("pip")) == 1
    assert len(machine.calls("fer_jax.main")) == 2

  def test_adds_the_extra_once_to_the_same_environment(self, machine: Machine) -> None:
    machine.add("python3")
    for script in ("quickstart.sh", "test.sh", "quickstart.sh", "test.sh"):
      assert machine.run(script).returncode == 0
    assert len(machine.calls("venv")) == 1
    assert [call.endswith("[dev]") for call in machine.calls("pip")] == [False, True]

  def test_changed_requirements_are_installed_into_the_same_environment(self, machine: Machine, tmp_path: Path) -> None:
    machine.add("python3")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "launch", copy / "launch")
    for name in ("pyproject.toml", "requirements.txt", "requirements-cpu.txt"):
      shutil.copy(ROOT / name, copy)
    for added in ("", "seaborn\n"):
      with (copy / "requirements-cpu.txt").open("a") as file:
        file.write(added)
      assert machine.run(str(copy / "launch" / "quickstart.sh")).returncode == 0
    assert len(machine.calls("venv")) == 1
    assert len(machine.calls("pip")) == 2


class TestRepair:
  def test_interrupted_installation_starts_over(self, machine: Machine) -> None:
    machine.add("python3")
    machine.run("quickstart.sh", FAKE_PIP_STATUS="130")
    leftover = machine.venv / "lib" / "leftover.py"
    leftover.parent.mkdir()
    leftover.touch()
    assert machine.run("quickstart.sh").returncode == 0
    assert not leftover.exists()
    assert len(machine.calls("venv")) == 2

  def test_interrupted_installation_of_the_extra_starts_over(self, machine: Machine) -> None:
    machine.add("python3")
    machine.run("quickstart.sh")
    machine.run("test.sh", FAKE_PIP_STATUS="130")
    assert machine.run("quickstart.sh").returncode == 0
    assert len(machine.calls("venv")) == 2

  def test_environment_without_python_is_recreated(self, machine: Machine) -> None:
    machine.add("python3")
    machine.run("quickstart.sh")
    (machine.venv / "bin" / "python").unlink()
    assert machine.run("quickstart.sh").returncode == 0
    assert len(machine.calls("venv")) == len(machine.calls("pip")) == 2

  @pytest.mark.parametrize("trailing", ["", "/"])
  def test_rejects_a_folder_that_is_not_an_environment(self, machine: Machine, trailing: str) -> None:
    machine.add("python3")
    machine.venv.mkdir()
    (machine.venv / "precious").touch()
    done = machine.run("quickstart.sh", FER_JAX_VENV=f"{machine.venv}{trailing}")
    assert_one_line_error(done, 2, str(machine.venv), "FER_JAX_VENV=")
    assert os.listdir(machine.venv) == ["precious"]

  def test_accepts_a_relative_folder_with_spaces(self, machine: Machine) -> None:
    machine.add("python3")
    assert machine.run("test.sh", FER_JAX_VENV="my own/").returncode == 0
    machine.run("test.sh", FER_JAX_VENV="my own/")
    assert (machine.home / "my own" / "bin" / "python").exists()
    assert len(machine.calls("venv")) == 1
