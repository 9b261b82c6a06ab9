"""The console script: it starts the programs that `python -m` starts."""

import importlib.util
import subprocess
import sys

import pytest

from fer_jax import console


def fer_jax(*arguments, **options):
  command = [sys.executable, "-c", "from fer_jax.console import main; main()", *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_names_every_command():
  done = fer_jax("--help")
  assert done.returncode == 0
  assert all(f"\n  {name} " in done.stdout for name in console.COMMANDS)


@pytest.mark.parametrize(("arguments", "wrong"), [((), "no command"), (("predikt",), "unknown command 'predikt'")])
def test_what_is_no_command_is_told_in_a_line(arguments, wrong):
  done = fer_jax(*arguments)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith(f"error: {wrong}; expected one of predict, live, ")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_command_is_a_program(name):
  assert importlib.util.find_spec(console.COMMANDS[name][0]) is not None


def test_a_program_gets_its_arguments_and_gives_its_status(tmp_path):
  done = fer_jax("predict", f"--out={tmp_path / 'faces.txt'}", str(tmp_path))
  assert done.returncode == 2
  assert "expected a name that ends in .csv or .jsonl" in done.stderr


def test_a_config_may_import_what_stands_beside_it(tmp_path):
  (tmp_path / "beside.py").write_text("")
  (tmp_path / "mine.py").write_text("import beside\n\ndef get_config(variant=''):\n  raise ValueError('was read')\n")
  done = fer_jax("train", "--config=mine.py", cwd=tmp_path)
  assert "was read" in done.stderr
