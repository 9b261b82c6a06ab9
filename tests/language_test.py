"""Checks the language of docstrings: entries are noun phrases, and the terms of the field are used."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "fer_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")])
SECTIONS = ("Args:", "Attributes:")
ENTRY = re.compile(r"( *)(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: (\S+)")
# Words with which an entry must not begin: it must name the value first.
FORBIDDEN = {"of", "that", "what", "which", "whose", "from", "how", "as", "likewise", "in", "by", "with", "on"}
# Expressions to avoid, with the term to write instead.
TERMS = {
  r"\bpictures?\b": "image",
  r"\btrainings\b(?!:)": "runs or replicas",
  r"\bmembers?\b": "replica or candidate",
  r"(?<!in )(?<!in-)(?<!its )\bplaces?\b(?! (the|them|it|all)\b)": "position, location or region",
  r"\bbeginnings?\b": "start, or initial parameters",
  r"\bbehind\b": "after",
  r"\bbeside\b": "next to",
  r"\bmend(s|ed|ing)?\b": "fix or repair",
  r"\breckon": "compute",
  r"\bwhoever\b": "a user, or the subject itself",
  r"\b(nobody|everybody|everyone)\b": "no one, all, or the subject itself",
  r"\bleft alone\b": "unchanged or skipped",
  r"\bdealt\b": "split or distributed",
  r"\bdivision\b(?! by)": "split",
  r"\bparted\b": "split",
  r"\blaid (behind|beside)\b": "concatenated",
  r"\bstands? (still|in training)\b": "does not improve, or also appears in training",
  r"\bbit for bit as (it|they)\b": "frozen",
  r"\bis cut to this\b": "maximum gradient norm",
  r"\bhave not met\b": "timed out after",
}
# Parts of names that the package does not use.
NAMES = {"picture", "pictures", "trainings", "member", "members", "beginning", "whoever", "everyone", "worse"}


def entries(docstring: str) -> Iterator[tuple[str, str]]:
  """Yields (name, first word) of the entries of a docstring's sections."""
  section = depth = None
  for line in docstring.splitlines():
    indent = len(line) - len(line.lstrip())
    if line.strip() in SECTIONS:
      section, depth = indent, None
    elif section is not None and line.strip() and indent <= section:
      section = None
    elif section is not None and (found := ENTRY.match(line)):
      depth = indent if depth is None else depth
      if indent == depth:  # deeper lines continue an entry
        yield found[2], found[3]


def docstrings(path: Path) -> Iterator[str]:
  """Yields the docstrings of a file's module, classes and functions."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      text = ast.get_docstring(node)
      if text:
        yield inspect.cleandoc(text)


def prose(path: Path) -> Iterator[tuple[int, str]]:
  """Yields (line, text) of a file's comments and of its strings that contain a space."""
  source = path.read_text(encoding="utf-8")
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string
  for node in ast.walk(ast.parse(source)):  # without the expressions of f-strings
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
      yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_entries_begin_with_a_noun_phrase(path: Path) -> None:
  wrong = [
    f"{name}: {word}"
    for docstring in docstrings(path)
    for name, word in entries(docstring)
    if word.lower() in FORBIDDEN or (word[0].islower() and len(word) > 1)  # x and y are coordinates
  ]
  assert not wrong, f"expected noun phrases that begin with a capital letter: {wrong}"


def pages() -> Iterator[tuple[Path, list[tuple[int, str]]]]:
  """Yields the README and the docs with their lines outside code blocks and tables that are generated from results."""
  for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
    text = path.read_text(encoding="utf-8")
    for block in (r"<!-- results:.*?<!-- /results -->", r"^```.*?^```"):
      # Blank lines in their place keep the line numbers.
      text = re.sub(block, lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    yield path, list(enumerate(text.splitlines(), start=1))


TEXTS = {
  **{path: list(prose(path)) for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))] if path != Path(__file__)},
  **dict(pages()),
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_terms_of_the_field_are_used(path: Path) -> None:
  wrong = [
    f"line {line}: {found[0]!r}: write {instead}"
    for line, text in TEXTS[path]
    for pattern, instead in TERMS.items()
    if (found := re.search(pattern, text, re.IGNORECASE))
  ]
  assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_terms_of_the_field(path: Path) -> None:
  tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
  names = {token.string for token in tokens if token.type == tokenize.NAME}
  assert not {name for name in names if NAMES & set(name.lower().split("_"))}


def test_entries_are_found() -> None:
  docstring = (
    "Does.\n\nArgs:\n  rate: of it.\n  steps, rows: Numbers of both,\n    kept: of them.\n\nReturns:\n  x: of y."
  )
  assert list(entries(docstring)) == [("rate", "of"), ("steps, rows", "Numbers")]
