"""launch/local.sh with a fake of fer_jax.main: a bash script whose behaviour is set by each test."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.environment_test import FAKE_PYTHON, ROOT, Machine, assert_one_line_error

TOOLS = ("env", "mkfifo", "mktemp", "sleep")  # all programs that local.sh calls in addition to environment.sh
CONFIG = "--config=configs/hsic.py:demo"

# Fake process of a run: reads its index I from --process=I and runs the bash script in BEHAVIOUR, which can use $I.
MAIN = f"""#!{shutil.which("bash")}
I=0
for flag in "$@"; do [[ "$flag" != --process=* ]] || I="${{flag#*=}}"; done
say() {{ printf '%s\\n' "$*"; }}
eval "$BEHAVIOUR"
"""

# Creates a file when it has started, and ends on SIGTERM as a run does.
STOPS_ON_SIGTERM = 'trap \'say "$I saved"; exit 143\' TERM; say ready >"$HERE/$I"; for ((;;)); do sleep 0.05; done'

# SECOND fails with status 1 after FIRST, with which the behaviour of the other process begins.
FIRST = 'say >"$HERE/first"; '
SECOND = 'until [[ -e "$HERE/first" ]]; do sleep 0.05; done; sleep 0.6; exit 1'
# Reports SIGTERM and continues until the file `go` exists.
CONTINUES_AFTER_SIGTERM = """trap 'say SIGTERM; say >"$HERE/sigterm$I"' TERM; say >"$HERE/$I"
until [[ -e "$HERE/go" ]]; do sleep 0.05; done
exit 143"""


class Local(Machine):
  """A machine without GPUs whose Python runs MAIN for `-m fer_jax.main`."""

  def __init__(self, folder: Path):
    super().__init__(folder)
    for tool in TOOLS:
      (self.bin / tool).symlink_to(str(shutil.which(tool)))
    main = self.add("fake_main", MAIN, folder)
    self.add("python3", FAKE_PYTHON + f'[[ "$2" != fer_jax.main ]] || exec {main} "$@"\n')
    self.here = folder / "here"
    self.here.mkdir()

  def environ(self, behaviour: str, **variables: str) -> dict[str, str]:
    return {**self.environment, "HERE": str(self.here), "BEHAVIOUR": behaviour, "FER_JAX_PATIENCE": "30", **variables}

  def local(self, behaviour: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return self.run("local.sh", *arguments, **self.environ(behaviour, **variables))

  def start(self, behaviour: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
      ["bash", str(ROOT / "launch" / "local.sh"), *arguments],
      env=self.environ(behaviour),
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def wait_for(self, files: int) -> None:
    """Waits until the processes have created this number of files."""
    script = "for ((;;)); do files=(*); ((${#files[@]} < $1)) || exit 0; sleep 0.02; done"
    subprocess.run(["bash", "-O", "nullglob", "-c", script, "-", str(files)], cwd=self.here, check=True, timeout=60)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Returns an environment with the packages for a CPU."""
  machine = Local(tmp_path_factory.mktemp("environment"))
  machine.local("exit 0", "--processes=1", "--", CONFIG)
  return machine.venv


@pytest.fixture
def machine(tmp_path: Path, environment: Path) -> Local:
  local = Local(tmp_path)
  local.venv = environment
  local.environment["FER_JAX_VENV"] = str(environment)
  return local


def sorted_output(done: subprocess.CompletedProcess[str]) -> list[str]:
  return sorted(done.stdout.splitlines())


class TestRun:
  def test_processes_get_their_index_devices_and_flags(self, machine: Local) -> None:
    behaviour = 'say "$JAX_PLATFORMS $JAX_NUM_CPU_DEVICES ${JAX_LOCAL_DEVICE_IDS-none} $PWD"; say "${@:3}"'
    flags = ("--port=4711", "--", CONFIG, "--config.seed=1", "a  b")
    done = machine.local(behaviour, "--processes=3", "--devices=2", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    environment = f"cpu 2 none {ROOT}"
    flags = [
      f"{CONFIG} --config.seed=1 a  b --processes=3 --process={i} --coordinator=127.0.0.1:4711" for i in range(3)
    ]
    expected = [environment, f"[1] {environment}", f"[2] {environment}", flags[0], f"[1] {flags[1]}", f"[2] {flags[2]}"]
    assert sorted_output(done) == sorted(expected)

  def test_all_processes_get_the_same_free_port(self, machine: Local) -> None:
    done = machine.local('say "${!#}"', "--processes=2", "--", CONFIG)
    first, second = done.stdout.replace("[1] ", "").splitlines()
    assert first == second
    assert 1024 < int(first.removeprefix("--coordinator=127.0.0.1:")) < 32768

  def test_single_process_is_its_own_coordinator(self, machine: Local) -> None:
    done = machine.local('say "${@:3}"; exit 7', "--processes=1", "--devices=4", "--port=4711", "--", CONFIG)
    added = "--processes=1 --process=0 --coordinator=127.0.0.1:4711"
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{CONFIG} {added}\n", "")

  def test_passes_on_output_without_a_final_line_break(self, machine: Local) -> None:
    done = machine.local("printf 'out without an end'; echo oh >&2", "--processes=2", "--", CONFIG)
    assert "[1] out without an end" in done.stdout
    assert sorted(done.stderr.splitlines()) == ["[1] oh", "oh"]

  def test_assigns_gpus_in_order(self, tmp_path: Path) -> None:
    machine = Local(tmp_path)
    machine.add("nvidia-smi", '#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: a card"; done\n')
    machine.local("exit 0", "--processes=1", "--", CONFIG)  # installs the packages for a GPU
    behaviour = 'say "${JAX_LOCAL_DEVICE_IDS-} ${JAX_PLATFORMS-}"'
    assert sorted_output(machine.local(behaviour, "--processes=2", "--devices=2", "--", CONFIG)) == ["0,1 ", "[1] 2,3 "]
    assert sorted_output(machine.local(behaviour, "--processes=1", "--devices=2", "--", CONFIG)) == ["0,1 "]
    done = machine.local(behaviour, "--processes=2", "--", CONFIG, JAX_PLATFORMS="cpu")
    assert sorted_output(done) == [" cpu", "[1]  cpu"]


class TestFailure:
  def test_exit_status_is_that_of_the_first_failure(self, machine: Local) -> None:
    done = machine.local(f"if [[ $I == 1 ]]; then {FIRST} exit 2; fi; {SECOND}", "--processes=2", "--", CONFIG)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["process 1 ended with status 2", "process 0 ended with status 1"]

  def test_exit_status_of_a_killed_process(self, machine: Local) -> None:
    done = machine.local(f"if [[ $I == 1 ]]; then {FIRST} kill -9 $$; fi; {SECOND}", "--processes=2", "--", CONFIG)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr.splitlines() == ["process 1 ended with status 137", "process 0 ended with status 1"]

  def test_other_processes_are_terminated_after_the_timeout(self, machine: Local) -> None:
    behaviour = 'if [[ $I == 1 ]]; then until [[ -e "$HERE/0" ]]; do sleep 0.05; done; exit 3; fi; ' + STOPS_ON_SIGTERM
    done = machine.local(behaviour, "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="1")
    assert (done.returncode, done.stdout) == (3, "0 saved\n")

  @pytest.mark.slow  # the script waits ten seconds after SIGTERM
  def test_processes_that_ignore_sigterm_are_killed(self, machine: Local) -> None:
    behaviour = "[[ $I != 1 ]] || exit 3; trap '' TERM; for ((;;)); do sleep 1; done"
    assert machine.local(behaviour, "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="0").returncode == 3

  def test_leaves_no_files_and_no_processes(self, machine: Local, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    behaviour = 'sleep 60 & disown; say $! >"$HERE/child$I"'
    assert machine.local(behaviour, "--processes=2", "--", CONFIG, TMPDIR=str(temporary)).returncode == 0
    assert os.listdir(temporary) == []
    for child in machine.here.glob("child*"):
      state = Path("/proc", child.read_text().strip(), "stat")
      assert not state.exists() or state.read_text().split()[2] == "Z"


class TestStop:
  @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
  def test_signal_is_passed_to_all_processes(self, machine: Local, signum: signal.Signals) -> None:
    running = machine.start(STOPS_ON_SIGTERM, "--processes=3", "--", CONFIG)
    machine.wait_for(3)
    os.killpg(running.pid, signum)  # to the process group, as a terminal does
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signum
    assert sorted(out.splitlines()) == ["0 saved", "[1] 1 saved", "[2] 2 saved"]
    assert err == ""

  def test_signal_is_passed_on_once(self, machine: Local) -> None:
    running = machine.start(CONTINUES_AFTER_SIGTERM, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGTERM)
    machine.wait_for(4)
    subprocess.run(["sleep", "0.4"], check=True)  # time for a second signal
    (machine.here / "go").touch()
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, sorted(out.splitlines())) == (143, ["SIGTERM", "[1] SIGTERM"])

  def test_second_signal_kills_all_processes(self, machine: Local) -> None:
    running = machine.start(CONTINUES_AFTER_SIGTERM, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGTERM)
    machine.wait_for(4)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 137

  def test_status_is_0_if_the_run_finishes_despite_the_signal(self, machine: Local) -> None:
    finishes = "trap 'exit 0' TERM; say ready >\"$HERE/$I\"; for ((;;)); do sleep 0.05; done"
    running = machine.start(finishes, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 0


class TestDryRun:
  def test_prints_commands_that_can_be_run(self, machine: Local) -> None:
    flags = ("--processes=2", "--devices=2", "--port=4711", "--dry-run", "--", CONFIG, "a  b")
    done = machine.local("say never", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    for process, line in enumerate(done.stdout.splitlines()):
      assert shlex.split(line) == [
        "cd",
        str(ROOT),
        "&&",
        "env",
        "JAX_NUM_CPU_DEVICES=2",
        "JAX_PLATFORMS=cpu",
        f"{machine.venv}/bin/python",
        "-m",
        "fer_jax.main",
        CONFIG,
        "a  b",
        "--processes=2",
        f"--process={process}",
        "--coordinator=127.0.0.1:4711",
      ]
    assert not machine.log.exists()

  def test_installs_nothing(self, tmp_path: Path) -> None:
    machine = Local(tmp_path)
    assert machine.local("", "--processes=2", "--dry-run", "--", CONFIG).stdout.count("\n") == 2
    assert not machine.venv.exists()


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (["--", CONFIG], "--processes=: expected a number"),
    (["--processes=0", "--", CONFIG], "--processes=0"),
    (["--processes=2", "--devices=two", "--", CONFIG], "--devices=two"),
    (["--processes=2", "--port=70000", "--", CONFIG], "--port=70000"),
    (["--processes=2", "--nodes=2", "--", CONFIG], "--nodes=2: unknown"),
    (["--processes=2", CONFIG], f"{CONFIG}: unknown"),
    (["--processes=2"], "no flags after --"),
    (["--processes=2", "--"], "no flags after --"),
    (["--processes=2", "--", CONFIG, "--processes=3"], "--processes=3: set by this script"),
    (["--processes=2", "--", CONFIG, "--process", "1"], "--process: set by this script"),
    (["--processes=2", "--", CONFIG, "--coordinator=a:1"], "--coordinator=a:1: set by this script"),
  ],
)
def test_wrong_flags_give_a_one_line_error(tmp_path: Path, arguments: list[str], part: str) -> None:
  assert_one_line_error(Local(tmp_path).local("", *arguments), 2, part)


def test_wrong_patience_gives_a_one_line_error(tmp_path: Path) -> None:
  done = Local(tmp_path).local("", "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="08")
  assert_one_line_error(done, 2, "FER_JAX_PATIENCE=08")


def test_too_few_gpus_give_a_one_line_error(tmp_path: Path) -> None:
  machine = Local(tmp_path)
  machine.add("nvidia-smi", "#!/bin/sh\necho 'GPU 0: a'; echo 'GPU 1: b'\n")
  flags = ("--processes=2", "--devices=2", "--dry-run", "--", CONFIG)
  assert_one_line_error(machine.local("", *flags), 2, "needs 4 GPUs, and there are 2")
  assert_one_line_error(machine.local("", "--processes=2", *flags[2:], CUDA_VISIBLE_DEVICES="1"), 2, "there are 1")
