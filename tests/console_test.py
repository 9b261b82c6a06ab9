"""Console script `fer-jax`, which starts the same programs as `python -m`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax import console

ROOT = Path(__file__).resolve().parents[1]


def fer_jax(*arguments, **options):
  command = [sys.executable, "-c", "from fer_jax.console import main; main()", *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_names_every_command():
  result = fer_jax("--help")
  assert result.returncode == 0
  assert all(f"\n  {name} " in result.stdout for name in console.COMMANDS)


@pytest.mark.parametrize(("arguments", "problem"), [((), "no command"), (("predikt",), "unknown command 'predikt'")])
def test_rejects_unknown_commands_in_one_line(arguments, problem):
  result = fer_jax(*arguments)
  assert (result.returncode, result.stdout) == (2, "")
  assert result.stderr.startswith(f"error: {problem}; expected one of predict, live, ")
  assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_command_has_a_module(name):
  assert importlib.util.find_spec(console.COMMANDS[name][0]) is not None


def test_passes_arguments_and_returns_the_exit_status(tmp_path):
  result = fer_jax("predict", f"--out={tmp_path / 'faces.txt'}", str(tmp_path))
  assert result.returncode == 2
  assert "expected a name that ends in .csv or .jsonl" in result.stderr


def test_a_config_can_import_modules_of_the_current_folder(tmp_path):
  (tmp_path / "neighbour.py").write_text("")
  (tmp_path / "mine.py").write_text("import neighbour\n\ndef get_config(variant=''):\n  raise ValueError('was read')\n")
  result = fer_jax("train", "--config=mine.py", cwd=tmp_path)
  assert "was read" in result.stderr


def test_interruption_during_imports_is_silent(tmp_path):
  (tmp_path / "matplotlib.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
  (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
  result = fer_jax("predict", "x.jpg", env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
  assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_closed_pipe_is_no_error():
  command = f"{sys.executable} -c 'from fer_jax.console import main; main()' --help | true; echo ${{PIPESTATUS[0]}}"
  result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
  assert result.stderr == ""
