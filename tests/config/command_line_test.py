import re
import sys
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


def error_message(*arguments):
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
  def test_without_overrides_equals_the_config_of_the_file(self):
    command = parse(DEMO)
    assert command.source == f"{HSIC}:demo"
    assert command.config.to_dict() == hsic.get_config("demo").to_dict()
    assert command.overrides == []

  def test_without_a_variant(self):
    assert parse(f"--config={HSIC}").config.to_dict() == hsic.get_config().to_dict()

  @pytest.mark.parametrize(
    "flag", [("--config", f"{HSIC}:demo"), ("-config", f"{HSIC}:demo"), (f"-config={HSIC}:demo",)]
  )
  def test_accepts_other_spellings_of_the_flag(self, flag):
    command = parse("--config.seed=3", *flag, "--workdir=here")
    assert command.source == f"{HSIC}:demo"
    assert (command.config.seed, command.workdir) == (3, Path("here"))

  @pytest.mark.parametrize("arguments", [(), ("--workdir=x",), ("--config",), ("--config.seed=1",)])
  def test_rejects_a_missing_config(self, arguments):
    assert error_message(*arguments).startswith("--config is missing")

  @pytest.mark.parametrize("source", ["nowhere.py", "nowhere.py:demo", ""])
  def test_rejects_missing_files(self, source):
    assert error_message(f"--config={source}").startswith(f"--config={source}: no file")

  def test_rejects_folders(self, tmp_path):
    assert ": no file" in error_message(f"--config={tmp_path}")

  def test_a_config_in_another_folder_can_import_its_package(self, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / "project" / "own_configs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "common.py").write_text("from configs import hsic\nget = hsic.get_config\n")
    (package / "mine.py").write_text("from own_configs import common\ndef get_config(): return common.get('demo')\n")
    assert command_line.load_config(str(package / "mine.py")).data.name == "synthetic_faces"

  def test_rejects_unknown_variants(self):
    message = error_message(f"--config={HSIC}:unknown")
    assert "no variant 'unknown': expected any of paper, small, demo, layerwise, backprop" in message

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
  def test_rejects_files_without_a_config(self, write, text, part):
    source = write(text)
    message = error_message(f"--config={source}")
    assert message.startswith(f"--config={source}: ")
    assert part in message

  def test_rejects_files_that_are_not_python(self, write):
    assert "is not a Python file" in error_message(f"--config={write('seed: 1', 'mine.yaml')}")

  def test_config_errors_propagate(self, write):
    text = "from ml_collections import ConfigDict\nfrom fer_jax.config.parsing import complete\n"
    source = write(text + "def get_config():\n  return complete(ConfigDict({'modle': {}}))\n")
    assert error_message(f"--config={source}") == "config.modle: no such key; did you mean config.model?"


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
  def test_changes_only_its_key(self, override, value):
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
    after = {key: _other_value(value) for key, value in before.items()}
    command = parse(f"--config={HSIC}", *(f"--config.{key}={value}" for key, value in after.items()))
    assert dict(leaves(command.config.to_dict())).items() >= after.items()

  def test_the_last_override_applies(self):
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
  def test_rejects_unknown_keys_and_names_the_closest(self, override, message):
    assert error_message(DEMO, f"--config.{override}") == message

  def test_rejects_an_empty_key(self):
    assert error_message(DEMO, "--config.=1").startswith("config.: no such key")
    assert error_message(DEMO, "--config.").startswith("config.: no such key")

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
  def test_rejects_values_of_the_wrong_type(self, override):
    assert f"config.{override.split('=')[0]}" in error_message(DEMO, f"--config.{override}")

  def test_rejects_keys_that_are_not_identifiers(self):
    assert "seconds a step" in error_message(f"--config={HSIC}", "--config.paper.reported.seconds a step=1")

  def test_rejects_a_missing_value(self):
    assert "config.seed" in error_message(DEMO, "--config.seed")


class TestOtherArguments:
  def test_rejects_unexpected_arguments(self):
    assert error_message(DEMO, "stray") == "'stray': unexpected argument (--help shows the usage)"

  def test_rejects_unknown_flags(self):
    assert "'wrkdir'" in error_message(DEMO, "--wrkdir=x")

  def test_rejects_a_second_config(self):
    assert "--config" in error_message(DEMO, DEMO)

  def test_rejects_a_workdir_without_a_value(self):
    assert "--workdir" in error_message(DEMO, "--workdir")

  @pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--helpfull"])
  def test_help_ignores_other_arguments(self, flag):
    assert parse("--config=nowhere.py", "--bogus", flag) is None

  @pytest.mark.parametrize(
    ("variant", "name"), [("", "hsic"), (":demo", "hsic_demo"), (":demo,backprop", "hsic_demo_backprop")]
  )
  def test_default_workdir(self, variant, name):
    assert parse(f"--config={HSIC}{variant}").workdir == Path("workdir") / name

  def test_given_workdir(self, tmp_path):
    assert parse(DEMO, f"--workdir={tmp_path}/a b").workdir == tmp_path / "a b"
    assert parse(DEMO, "--workdir", str(tmp_path)).workdir == tmp_path


def _other_value(value):
  """Returns a different value of the same type."""
  if isinstance(value, bool):
    return not value
  return {int: lambda v: v + 1, float: lambda v: v + 0.5, str: lambda v: f"{v}x", tuple: lambda v: (*v, "x")}[
    type(value)
  ](value)


class TestProcesses:
  def test_default_is_a_single_process(self):
    command = parse(DEMO)
    assert (command.multi_process, command.address) == (False, None)

  def test_auto_has_no_address(self):
    command = parse(DEMO, "--processes=auto")
    assert (command.multi_process, command.address) == (True, None)

  def test_parses_a_given_address(self):
    command = parse(DEMO, "--processes=4", "--process=3", "--coordinator=node7:1234")
    assert (command.multi_process, command.address) == (True, ("node7:1234", 4, 3))

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
  def test_rejects_incomplete_addresses(self, given, message):
    with pytest.raises(UserError, match=re.escape(message)):
      parse(DEMO, *given)
