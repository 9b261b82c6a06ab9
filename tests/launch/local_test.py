"""launch/local.sh with a stand-in for fer_jax.main: a bash script that says and does what a test asks for."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.sweep_test import ROOT, STAND_IN, Machine, assert_one_line

TOOLS = ("env", "mkfifo", "mktemp", "sleep")  # all that local.sh calls beyond what environment.sh does
CONFIG = "--config=configs/hsic.py:demo"

# Is process I of the run, which it reads from --process=I; BEHAVIOUR is a bash script that knows it as $I.
MAIN = f"""#!{shutil.which("bash")}
I=0
for flag in "$@"; do [[ "$flag" != --process=* ]] || I="${{flag#*=}}"; done
say() {{ printf '%s\\n' "$*"; }}
eval "$BEHAVIOUR"
"""

# Says so when it is there, and ends as a training does that is told to stop.
OBEDIENT = 'trap \'say "$I saved"; exit 143\' TERM; say ready >"$HERE/$I"; for ((;;)); do sleep 0.05; done'

# Ends after the other has failed, by 1; BEHAVIOUR of the other begins with FIRST.
FIRST = 'say >"$HERE/first"; '
SECOND = 'until [[ -e "$HERE/first" ]]; do sleep 0.05; done; sleep 0.6; exit 1'
# Says that it was told to stop, and goes on until a file is there.
SLOW = """trap 'say told; say >"$HERE/told$I"' TERM; say >"$HERE/$I"; until [[ -e "$HERE/go" ]]; do sleep 0.05; done
exit 143"""


class Local(Machine):
  """A machine whose Python runs MAIN for `-m fer_jax.main`, and which has no GPUs."""

  def __init__(self, folder: Path):
    super().__init__(folder)
    for tool in TOOLS:
      (self.bin / tool).symlink_to(str(shutil.which(tool)))
    main = self.add("fake_main", MAIN, folder)
    self.add("python3", STAND_IN + f'[[ "$2" != fer_jax.main ]] || exec {main} "$@"\n')
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

  def wait_for(self, processes: int) -> None:
    waiting = "for ((;;)); do files=(*); ((${#files[@]} < $1)) || exit 0; sleep 0.02; done"
    subprocess.run(
      ["bash", "-O", "nullglob", "-c", waiting, "-", str(processes)], cwd=self.here, check=True, timeout=60
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """An environment with all that a CPU needs."""
  maker = Local(tmp_path_factory.mktemp("maker"))
  maker.local("exit 0", "--processes=1", "--", CONFIG)
  return maker.venv


@pytest.fixture
def machine(tmp_path: Path, environment: Path) -> Local:
  local = Local(tmp_path)
  local.venv = environment
  local.environment["FER_JAX_VENV"] = str(environment)
  return local


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
  return sorted(done.stdout.splitlines())


class TestRun:
  def test_each_process_is_told_who_it_is_and_what_devices_it_has(self, machine: Local) -> None:
    behaviour = 'say "$JAX_PLATFORMS $JAX_NUM_CPU_DEVICES ${JAX_LOCAL_DEVICE_IDS-none} $PWD"; say "${@:3}"'
    flags = ("--port=4711", "--", CONFIG, "--config.seed=1", "a  b")
    done = machine.local(behaviour, "--processes=3", "--devices=2", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    where = f"cpu 2 none {ROOT}"
    who = [f"{CONFIG} --config.seed=1 a  b --processes=3 --process={i} --coordinator=127.0.0.1:4711" for i in range(3)]
    expected = [where, f"[1] {where}", f"[2] {where}", who[0], f"[1] {who[1]}", f"[2] {who[2]}"]
    assert said(done) == sorted(expected)

  def test_a_port_is_found_and_is_the_same_for_all(self, machine: Local) -> None:
    done = machine.local('say "${!#}"', "--processes=2", "--", CONFIG)
    first, second = done.stdout.replace("[1] ", "").splitlines()
    assert first == second
    assert 1024 < int(first.removeprefix("--coordinator=127.0.0.1:")) < 32768

  def test_one_process_joins_itself(self, machine: Local) -> None:
    done = machine.local('say "${@:3}"; exit 7', "--processes=1", "--devices=4", "--port=4711", "--", CONFIG)
    where = "--processes=1 --process=0 --coordinator=127.0.0.1:4711"
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{CONFIG} {where}\n", "")

  def test_what_a_process_says_last_is_passed_on(self, machine: Local) -> None:
    done = machine.local("printf 'out without an end'; echo oh >&2", "--processes=2", "--", CONFIG)
    assert "[1] out without an end" in done.stdout
    assert sorted(done.stderr.splitlines()) == ["[1] oh", "oh"]

  def test_gpus_are_dealt_out_in_order(self, tmp_path: Path) -> None:
    machine = Local(tmp_path)
    machine.add("nvidia-smi", '#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: a card"; done\n')
    machine.local("exit 0", "--processes=1", "--", CONFIG)  # installs what a GPU needs
    behaviour = 'say "${JAX_LOCAL_DEVICE_IDS-} ${JAX_PLATFORMS-}"'
    assert said(machine.local(behaviour, "--processes=2", "--devices=2", "--", CONFIG)) == ["0,1 ", "[1] 2,3 "]
    assert said(machine.local(behaviour, "--processes=1", "--devices=2", "--", CONFIG)) == ["0,1 "]
    done = machine.local(behaviour, "--processes=2", "--", CONFIG, JAX_PLATFORMS="cpu")
    assert said(done) == [" cpu", "[1]  cpu"]


class TestFailure:
  def test_the_status_is_that_of_the_first_that_failed(self, machine: Local) -> None:
    done = machine.local(f"if [[ $I == 1 ]]; then {FIRST} exit 2; fi; {SECOND}", "--processes=2", "--", CONFIG)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["process 1 ended with status 2", "process 0 ended with status 1"]

  def test_one_that_is_killed(self, machine: Local) -> None:
    done = machine.local(f"if [[ $I == 1 ]]; then {FIRST} kill -9 $$; fi; {SECOND}", "--processes=2", "--", CONFIG)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr.splitlines() == ["process 1 ended with status 137", "process 0 ended with status 1"]

  def test_the_others_are_terminated_when_their_time_is_over(self, machine: Local) -> None:
    behaviour = 'if [[ $I == 1 ]]; then until [[ -e "$HERE/0" ]]; do sleep 0.05; done; exit 3; fi; ' + OBEDIENT
    done = machine.local(behaviour, "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="1")
    assert (done.returncode, done.stdout) == (3, "0 saved\n")

  @pytest.mark.slow  # ten seconds are given after the request
  def test_and_killed_where_they_do_not_listen(self, machine: Local) -> None:
    behaviour = "[[ $I != 1 ]] || exit 3; trap '' TERM; for ((;;)); do sleep 1; done"
    assert machine.local(behaviour, "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="0").returncode == 3

  def test_nothing_is_left_behind(self, machine: Local, tmp_path: Path) -> None:
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
  def test_a_signal_reaches_all_and_they_end_by_themselves(self, machine: Local, signum: signal.Signals) -> None:
    running = machine.start(OBEDIENT, "--processes=3", "--", CONFIG)
    machine.wait_for(3)
    os.killpg(running.pid, signum)  # as a terminal does
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signum
    assert sorted(out.splitlines()) == ["0 saved", "[1] 1 saved", "[2] 2 saved"]
    assert err == ""

  def test_it_comes_once(self, machine: Local) -> None:
    running = machine.start(SLOW, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGTERM)
    machine.wait_for(4)
    subprocess.run(["sleep", "0.4"], check=True)  # in which a second one would come
    (machine.here / "go").touch()
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, sorted(out.splitlines())) == (143, ["[1] told", "told"])

  def test_a_second_one_ends_them_at_once(self, machine: Local) -> None:
    running = machine.start(SLOW, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGTERM)
    machine.wait_for(4)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 137

  def test_a_run_that_was_done_before_the_signal_took_effect(self, machine: Local) -> None:
    done_all_the_same = "trap 'exit 0' TERM; say ready >\"$HERE/$I\"; for ((;;)); do sleep 0.05; done"
    running = machine.start(done_all_the_same, "--processes=2", "--", CONFIG)
    machine.wait_for(2)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 0


class TestDryRun:
  def test_its_lines_can_be_run_by_hand(self, machine: Local) -> None:
    flags = ("--processes=2", "--devices=2", "--port=4711", "--dry-run", "--", CONFIG, "a  b")
    done = machine.local("say never", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    for process, line in enumerate(done.stdout.splitlines()):
      assert shlex.split(line) == [
        *("cd", str(ROOT), "&&", "env", "JAX_NUM_CPU_DEVICES=2", "JAX_PLATFORMS=cpu"),
        *(f"{machine.venv}/bin/python", "-m", "fer_jax.main", CONFIG, "a  b"),
        *("--processes=2", f"--process={process}", "--coordinator=127.0.0.1:4711"),
      ]
    assert not machine.log.exists()

  def test_nothing_is_installed(self, tmp_path: Path) -> None:
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
def test_a_wrong_flag_is_one_line(tmp_path: Path, arguments: list[str], part: str) -> None:
  assert_one_line(Local(tmp_path).local("", *arguments), 2, part)


def test_a_wrong_patience_is_one_line(tmp_path: Path) -> None:
  done = Local(tmp_path).local("", "--processes=2", "--", CONFIG, FER_JAX_PATIENCE="08")
  assert_one_line(done, 2, "FER_JAX_PATIENCE=08")


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
  machine = Local(tmp_path)
  machine.add("nvidia-smi", "#!/bin/sh\necho 'GPU 0: a'; echo 'GPU 1: b'\n")
  flags = ("--processes=2", "--devices=2", "--dry-run", "--", CONFIG)
  assert_one_line(machine.local("", *flags), 2, "needs 4 GPUs, and there are 2")
  assert_one_line(machine.local("", "--processes=2", *flags[2:], CUDA_VISIBLE_DEVICES="1"), 2, "there are 1")
