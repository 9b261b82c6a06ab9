"""Checks the README and the documentation: tables, commands, examples and links."""

import argparse
import importlib
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer_jax.apps import tables
from fer_jax.config import command_line
from fer_jax.data.builders.synthetic_faces.images import render_image
from fer_jax.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONAL = {"equinox": "equinox", "haiku": "dm-haiku"}  # module -> package, for optional imports of the examples
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def commands(text: str, program: str) -> list[str]:
  """Returns the commands that run a program, in code blocks and in the text, without comments."""
  found = re.findall(rf"(?:^|`)({program}[^`\n]*)", text, flags=re.MULTILINE)
  return [command.split("  #")[0].strip() for command in dict.fromkeys(found)]


def examples(page: Path) -> list[Any]:
  """Returns the Python code blocks of a page, each with its first line number as its id."""
  text = page.read_text(encoding="utf-8")
  blocks = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
  return [
    pytest.param("\n" * line + block[1], id=f"{page.name}:{line + 1}")
    for block in blocks
    for line in [text.count("\n", 0, block.start(1))]
  ]


class _Parsed(Exception):
  """Raised to stop a program after it has parsed its flags."""


@pytest.fixture
def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
  parse = argparse.ArgumentParser.parse_args

  def parse_and_stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
    self.allow_abbrev = False
    parse(self, args, namespace)
    raise _Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def check_command(command: str) -> None:
  """Raises an error if a module, a flag or a config key of a command does not exist."""
  _, _, module, *arguments = shlex.split(command)
  if module == "fer_jax.main":
    command_line.parse([module, *arguments])
    return
  with pytest.raises(_Parsed):
    importlib.import_module(module).main(arguments)


def test_tables_equal_the_results() -> None:
  assert tables.main(["--check", f"--results={ROOT / 'results'}", f"--readme={ROOT / 'README.md'}"]) == 0


@pytest.mark.parametrize(
  "command", sorted({command for page in PAGES for command in commands(page.read_text(), r"python -m fer_jax\.\w")})
)
def test_commands_and_their_flags_exist(
  command: str, stop_after_parsing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(ROOT)
  check_command(command)


def test_rejects_wrong_commands(stop_after_parsing: None, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)
  with pytest.raises(ModuleNotFoundError):
    check_command("python -m fer_jax.apps.nothing")
  with pytest.raises(SystemExit):
    check_command("python -m fer_jax.apps.report --workdir=a --besides=b")
  with pytest.raises(SystemExit):
    check_command("python -m fer_jax.apps.report --work=a")
  with pytest.raises(UserError, match=r"config\.unknown"):
    check_command("python -m fer_jax.main --config=configs/hsic.py:demo --config.unknown=1")
  text = "a `python -m fer_jax.a --b`\npython -m fer_jax.c    # without --d\nthe python -m fer_jax.e"
  assert commands(text, r"python -m fer_jax\.\w") == ["python -m fer_jax.a --b", "python -m fer_jax.c"]


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
  """Folder with the files that the examples expect: a finished run and an image of two people."""
  folder = tmp_path_factory.mktemp("example_folder")
  shutil.copytree(finished_run, folder / "workdir" / "separable_se_demo")
  people = [render_image(0, subject, "happy", 0, 240, yaw=0.0) for subject in (0, 1)]
  cv2.imwrite(str(folder / "party.jpg"), np.concatenate(people, axis=1))
  return folder


@pytest.mark.parametrize("example", [example for page in PAGES for example in examples(page)])
def test_examples_run(example: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
  if "fer_jax.load(" in example:
    monkeypatch.chdir(request.getfixturevalue("example_folder"))
  for name, package in OPTIONAL.items():
    if re.search(rf"^import {name}\b", example, flags=re.MULTILINE):
      pytest.importorskip(name, reason=f"{name} is not installed: pip install {package}")
  exec(compile(example, "example", "exec"), {"__name__": "example"})


def test_every_config_and_program_is_documented() -> None:
  configs = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"}
  apps = {path.stem for path in (ROOT / "fer_jax" / "apps").glob("*.py") if "__main__" in path.read_text()}
  text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
  assert {name for name in configs if f"configs/{name}.py" not in text} == set()
  assert {name for name in apps if f"python -m fer_jax.apps.{name}" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_named_scripts_exist(page: Path) -> None:
  for script in commands(page.read_text(encoding="utf-8"), "bash "):
    assert (ROOT / script.split()[1]).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_within_the_repository_exist(page: Path) -> None:
  for link in LINK.findall(page.read_text(encoding="utf-8")):
    assert (page.parent / link.split("#")[0]).exists(), link


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_page_opens_with_its_command_or_code(page: Path) -> None:
  title, empty, block, *_ = page.read_text(encoding="utf-8").splitlines()
  assert title.startswith("# ")
  assert not empty
  assert block in ("```bash", "```python")


def test_the_readme_is_short() -> None:
  assert len(README.splitlines()) <= 120


def test_paths_in_contributing_exist() -> None:
  tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```\nconfigs/", 1)[1].split("```")[0]
  names = re.findall(r"\b(\w+\.py|\w+\.sh|\w+/)", f"configs/{tree}")
  here = {path.name + "/" * path.is_dir() for path in (*ROOT.iterdir(), *ROOT.glob("launch/*"))}
  here |= {path.name + "/" * path.is_dir() for path in ROOT.glob("fer_jax/*")}
  # FILE.py is a placeholder; results/ is absent from git until something is measured.
  assert set(names) <= here | {"FILE.py", "results/"}
