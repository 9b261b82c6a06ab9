import re
from pathlib import Path

import pytest

from configs import hsic
from fer_jax.config import command_line
from fer_jax.config.parsing import parse as parse_settings
from fer_jax.runtime.errors import UserError

HSIC = str(Path(hsic.__file__))
DEMO = f"--config={HSIC}:demo"


def parse(*arguments):
  return command_line.parse(["main.py", *arguments])


def message_of(*arguments):
  with pytest.raises(UserError) as raised:
    parse(*arguments)
  assert "\n" not in str(raised.value)
  return str(raised.value)


def leaves(mapping, path=""):
  for key, value in mapping.items():
    if isinstance(value, dict):
      yield from leaves(value, f"{path}{key}.")
    else:
      yield f"{path}{key}", value


@pytest.fixture
def write(tmp_path):
  def write_config(text, name="mine.py"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)

  return write_config


class TestSource:
  def test_without_overrides_is_the_file_s_config(self):
    command = parse(DEMO)
    assert command.source == f"{HSIC}:demo"
    assert command.config.to_dict() == hsic.get_config("demo").to_dict()
    assert command.overrides == []

  def test_without_a_variant(self):
    assert parse(f"--config={HSIC}").config.to_dict() == hsic.get_config().to_dict()

  @pytest.mark.parametrize(
    "flag", [("--config", f"{HSIC}:demo"), ("-config", f"{HSIC}:demo"), (f"-config={HSIC}:demo",)]
  )
  def test_other_spellings_of_the_flag(self, flag):
    command = parse("--config.seed=3", *flag, "--workdir=here")
    assert command.source == f"{HSIC}:demo"
    assert (command.config.seed, command.workdir) == (3, Path("here"))

  @pytest.mark.parametrize("arguments", [(), ("--workdir=x",), ("--config",), ("--config.seed=1",)])
  def test_missing(self, arguments):
    assert message_of(*arguments).startswith("--config is missing")

  @pytest.mark.parametrize("source", ["nowhere.py", "nowhere.py:demo", ""])
  def test_no_such_file(self, source):
    assert message_of(f"--config={source}").startswith(f"--config={source}: no file")

  def test_a_folder_is_no_file(self, tmp_path):
    assert ": no file" in message_of(f"--config={tmp_path}")

  def test_unknown_variant(self):
    message = message_of(f"--config={HSIC}:nobody")
    assert "no variant 'nobody': expected any of paper, small, demo, blockwise, backprop" in message

  @pytest.mark.parametrize(
    ("text", "part"),
    [
      ("def get_config(:\n", "cannot be imported"),
      ("if True:\nx = 1\n", "cannot be imported"),
      ("import no_such_module\n", "no_such_module"),
      ("from fer_jax.config.parsing import nothing\n", "nothing"),
      ("x = 1\n", "has no function get_config"),
      ("def get_config():\n  raise ValueError('too few faces')\n", "too few faces"),
    ],
  )
  def test_a_file_that_is_no_config(self, write, text, part):
    source = write(text)
    message = message_of(f"--config={source}")
    assert message.startswith(f"--config={source}: ")
    assert part in message

  def test_not_python(self, write):
    assert "is not a Python file" in message_of(f"--config={write('seed: 1', 'mine.yaml')}")

  def test_a_config_error_passes_through(self, write):
    text = "from ml_collections import ConfigDict\nfrom fer_jax.config.parsing import complete\n"
    source = write(text + "def get_config():\n  return complete(ConfigDict({'modle': {}}))\n")
    assert message_of(f"--config={source}") == "config.modle: no such key; did you mean config.model?"


class TestOverrides:
  @pytest.mark.parametrize(
    ("override", "value"),
    [
      ("seed=7", 7),
      ("budget_minutes=8", 8.0),
      ("budget_minutes=0.5", 0.5),
      ("duration=20", "20"),
      ("duration=3 epochs", "3 epochs"),
      ("phases.bottleneck.duration=0.25", "0.25"),
      ("phases.bottleneck.duration=100 steps", "100 steps"),
      ("phases.bottleneck.optimizer.learning_rate=1", 1.0),
      ("phases.bottleneck.objective.balanced=false", False),
      ("phases.bottleneck.train=('block*', 'pyramid*')", ("block*", "pyramid*")),
      ("phases.bottleneck.train=('block*',)", ("block*",)),
      ("model.activation=tanh", "tanh"),
    ],
  )
  def test_apply(self, override, value):
    command = parse(DEMO, f"--config.{override}")
    found = dict(leaves(command.config.to_dict()))
    key = override.split("=")[0]
    assert found.pop(key) == value
    expected = dict(leaves(hsic.get_config("demo").to_dict()))
    expected.pop(key)
    assert found == expected
    assert command.overrides == [f"--config.{override}"]
    parse_settings(command.config)

  def test_every_key_can_be_overridden(self):
    before = dict(leaves(hsic.get_config().to_dict()))
    before = {key: value for key, value in before.items() if " " not in key}
    after = {key: _another(value) for key, value in before.items()}
    command = parse(f"--config={HSIC}", *(f"--config.{key}={value}" for key, value in after.items()))
    assert dict(leaves(command.config.to_dict())).items() >= after.items()

  def test_the_last_of_two_counts(self):
    assert parse(DEMO, "--config.seed=1", "--config.seed=2").config.seed == 2

  @pytest.mark.parametrize(
    ("override", "message"),
    [
      ("sed=1", "config.sed: no such key; did you mean config.seed?"),
      ("modle.growth=1", "config.modle: no such key; did you mean config.model?"),
      ("model.grwth=1", "config.model.grwth: no such key; did you mean config.model.growth?"),
      (
        "phases.bottleneck.optimizer.learing_rate=1",
        "config.phases.bottleneck.optimizer.learing_rate: no such key; "
        "did you mean config.phases.bottleneck.optimizer.learning_rate?",
      ),
      ("seed.x=1", "config.seed.x: no such key; the keys are: none"),
    ],
  )
  def test_a_typo_names_the_nearest_key(self, override, message):
    assert message_of(DEMO, f"--config.{override}") == message

  def test_an_override_of_nothing(self):
    assert message_of(DEMO, "--config.=1").startswith("config.: no such key")
    assert message_of(DEMO, "--config.").startswith("config.: no such key")

  @pytest.mark.parametrize(
    "override",
    [
      "seed=x",
      "seed=1.5",
      "seed=",
      "budget_minutes=soon",
      "phases.bottleneck.objective.balanced=maybe",
      "phases.bottleneck.train=block*,pyramid*",
      "phases.bottleneck=3",
      "data=fer2013",
    ],
  )
  def test_a_value_of_the_wrong_type_names_the_key(self, override):
    assert f"config.{override.split('=')[0]}" in message_of(DEMO, f"--config.{override}")

  def test_a_key_that_is_no_python_name(self):
    assert "seconds a step" in message_of(f"--config={HSIC}", "--config.paper.reported.seconds a step=1")

  def test_a_value_that_is_missing(self):
    assert "config.seed" in message_of(DEMO, "--config.seed")


class TestOtherArguments:
  def test_unexpected_argument(self):
    assert message_of(DEMO, "stray") == "'stray': unexpected argument (--help shows the usage)"

  def test_unknown_flag(self):
    assert "'wrkdir'" in message_of(DEMO, "--wrkdir=x")

  def test_second_config(self):
    assert "--config" in message_of(DEMO, DEMO)

  def test_workdir_without_a_value(self):
    assert "--workdir" in message_of(DEMO, "--workdir")

  @pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--helpfull"])
  def test_help_wins_over_everything(self, flag):
    assert parse("--config=nowhere.py", "--bogus", flag) is None

  @pytest.mark.parametrize(
    ("variant", "name"), [("", "hsic"), (":demo", "hsic_demo"), (":demo,backprop", "hsic_demo_backprop")]
  )
  def test_default_workdir(self, variant, name):
    assert parse(f"--config={HSIC}{variant}").workdir == Path("workdir") / name

  def test_given_workdir(self, tmp_path):
    assert parse(DEMO, f"--workdir={tmp_path}/a b").workdir == tmp_path / "a b"
    assert parse(DEMO, "--workdir", str(tmp_path)).workdir == tmp_path


def _another(value):
  """Returns some other value of the same type."""
  if isinstance(value, bool):
    return not value
  return {int: lambda v: v + 1, float: lambda v: v + 0.5, str: lambda v: f"{v}x", tuple: lambda v: (*v, "x")}[
    type(value)
  ](value)


class TestProcesses:
  def test_a_run_is_of_one_unless_it_is_said(self):
    command = parse(DEMO)
    assert (command.several, command.address) == (False, None)

  def test_a_cluster_may_know_the_address(self):
    command = parse(DEMO, "--processes=auto")
    assert (command.several, command.address) == (True, None)

  def test_the_address_may_be_given(self):
    command = parse(DEMO, "--processes=4", "--process=3", "--coordinator=node7:1234")
    assert (command.several, command.address) == (True, ("node7:1234", 4, 3))

  @pytest.mark.parametrize(
    ("given", "message"),
    [
      (["--processes=0"], "--processes=0: expected a number, 1 or more, or auto"),
      (["--processes=many"], "--processes=many: expected a number, 1 or more, or auto"),
      (["--processes=2", "--coordinator=a:1"], "--process is missing: expected the number of this process, 0 to 1"),
      (["--processes=2", "--process=2", "--coordinator=a:1"], "--process=2: expected the number of this process"),
      (["--processes=2", "--process=1"], "--coordinator is missing: expected HOST:PORT"),
      (["--processes=2", "--process=1", "--coordinator=node7"], "--coordinator=node7: expected HOST:PORT"),
      (["--process=1"], "--process=1: expected with --processes=N"),
      (["--processes=auto", "--coordinator=a:1"], "--coordinator=a:1: expected with --processes=N"),
    ],
  )
  def test_half_an_address_is_none(self, given, message):
    with pytest.raises(UserError, match=re.escape(message)):
      parse(DEMO, *given)
