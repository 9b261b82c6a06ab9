"""Generates the tables of the README and of docs/ from the measured results, so that no figure is typed by hand.

Usage:
  python -m fer_jax.apps.tables --add=WORKDIR --name=NAME     keep a run's result as results/NAME.json
  python -m fer_jax.apps.tables [--results=results] [--readme=README.md]     rewrite the tables
  python -m fer_jax.apps.tables --check     exit with status 1 where a table differs from the results

The pages are the README and those files of the `docs/` folder next to it that contain a marker. A table is placed
between `<!-- results:accuracy rows=a,b -->` and `<!-- /results -->`; `rows` names the files `results/a.json` and
`results/b.json`. The word after `results:` selects the table:

  accuracy  one row for each run.
  views     one row for each run and TTA protocol.
  claims    one row for each config `configs/a.py`: what its paper claims, next to the run `b` in `rows=a:b,c`.
  bench     one table for each benchmark; `columns=key,key` restricts it to these columns, and to rows with any of them.
  sweep     one table for each sweep kept by `launch/sweep.py --name=a`; its scatter plot, if any, is written as a.svg
            next to the page.

Without `rows`, all files of the kind are shown, sorted by name. A named file that does not exist is shown as "not yet
measured".
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fer_jax.apps.benchmarks.benchmark_result import parse_benchmark
from fer_jax.apps.result_tables.markdown import Result, Results, plots, table
from fer_jax.apps.sweeps.sweep_result import parse_sweep
from fer_jax.runtime import typed_json
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path, read_json, write_text
from fer_jax.training.run_result import parse_result, read_result

_BLOCK = re.compile(
  r"(?P<start><!-- results:(?P<table>\S+)(?P<options>[^>]*?) -->\n).*?(?P<end><!-- /results -->)", re.DOTALL
)
_START, _END = "<!-- results:", "<!-- /results -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def load_results(folder: Path) -> dict[str, Result]:
  """Reads every `*.json` of the results folder; a folder that does not exist has no results.

  Returns:
    Result of each file, by file name without suffix.

  Raises:
    UserError: A file is neither the result of a run, nor of a benchmark, nor of a sweep.
  """
  return {path.stem: _parse(read_json(path), str(path)) for path in sorted(folder.glob("*.json"))}


def _parse(content: Mapping[str, Any], path: str) -> Result:
  if "rows" in content and "what" in content:
    return parse_benchmark(content, path)
  if "rows" in content and "sweep" in content:
    return parse_sweep(content, path)
  if "accuracy" in content:
    return parse_result(content, path)
  raise UserError(
    f"{path}: expected a run's result (accuracy), a benchmark's (what, rows) or a sweep's (sweep, rows); write it "
    "again with --add, with the benchmark or with the sweep"
  )


def add_result(workdir: Path, name: str, folder: Path) -> Path:
  """Copies a run's `result.json` to `folder/name.json` and adds the overrides of its config.

  Args:
    workdir: Workdir of a finished run.
    name: Name of the new file, without suffix.
    folder: Results folder.

  Returns:
    Path of the new file.

  Raises:
    UserError: The run has no result yet, or the name contains other characters than allowed.
  """
  if not _NAME.fullmatch(name):
    raise UserError(f"--name={name}: expected letters, digits, '_', '-' and '.'; give another")
  source = workdir / "result.json"
  if not source.is_file():
    raise UserError(f"{source}: expected the result of a finished run, but there is none; finish the run first")
  result = read_result(source)
  config = workdir / "config.json"
  if result.overrides is None and config.is_file():
    overrides = read_json(config).get("overrides") or []
    # The location of the data on one machine does not affect the measurement.
    measured = [o for o in overrides if not re.match(r"--?config\.data\.data_dir=", o)]
    result = replace(result, overrides=tuple(measured))
  path = folder / f"{name}.json"
  typed_json.write(path, result)
  return path


def render(page: str, results: Results, where: str = "README.md") -> str:
  """Returns the text of a page with every marked table regenerated from the results.

  Args:
    page: Text with at least one pair of markers.
    results: Results by name of their file, from `load_results`.
    where: Name of the page in error messages.

  Raises:
    UserError: The page has no marker, an unclosed or unknown one, or a marker names a file of another kind.
  """
  blocks = list(_BLOCK.finditer(page))
  # A start without an end makes the regular expression match up to the end of the next block, so counts differ.
  if len(blocks) != page.count(_START) or len(blocks) != page.count(_END):
    raise UserError(
      f"{where}: expected each `<!-- results:NAME -->` on a separate line, followed by `{_END}`, found "
      f"{page.count(_START)} starts and {page.count(_END)} ends; pair them"
    )
  if not blocks:
    raise UserError(f"{where}: expected a marker `<!-- results:NAME -->`, found none; add one where a table belongs")

  def remade(block: re.Match[str]) -> str:
    line = page.count("\n", 0, block.start()) + 1
    made = table(block["table"], block["options"], results, f"{where}:{line}")
    # Markdown requires an empty line between a comment and a table.
    return f"{block['start']}\n{made}\n\n{block['end']}"

  return _BLOCK.sub(remade, page)


def _pages(readme: Path) -> dict[Path, str]:
  """Returns the text of the README, and of each page of the docs/ folder next to it that contains a marker.

  Raises:
    UserError: A page cannot be read.
  """
  pages = {}
  for path in (readme, *sorted((readme.parent / "docs").glob("*.md"))):
    try:
      text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
      hint = "give --readme" if path == readme else "save it as UTF-8"
      raise UserError(f"{path}: expected a page with marked tables, cannot read it ({error}); {hint}") from None
    if path == readme or _START in text or _END in text:
      pages[path] = text
  return pages


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line; returns 1 if `--check` finds a difference, otherwise 0."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.tables",
    description="Write the tables of the README and of docs/ from the measured results.",
  )
  parser.add_argument("--results", type=local_path, default=Path("results"), help="folder of the results' JSON files")
  parser.add_argument(
    "--readme",
    type=local_path,
    default=Path("README.md"),
    help="README file; the pages of the docs/ folder next to it are included",
  )
  action = parser.add_mutually_exclusive_group()
  action.add_argument("--check", action="store_true", help="compare only; exit with status 1 if a table differs")
  action.add_argument(
    "--add", type=local_path, metavar="WORKDIR", help="copy the result of this run to the results, as --name"
  )
  parser.add_argument("--name", help="name of the results file for --add, without .json")
  given = parser.parse_args(arguments)
  if (given.add is None) != (given.name is None):
    raise UserError("--add and --name: expected both or neither; give the run's workdir and its results file's name")
  if given.add is not None:
    print(add_result(given.add, given.name, given.results))
    return 0
  results = load_results(given.results)
  present = _pages(given.readme)
  made = {path: render(text, results, str(path)) for path, text in present.items()}
  drawn = {path.parent / name: svg for path, text in made.items() for name, svg in plots(text, results).items()}
  # The bytes of a plot depend on the version of matplotlib, so --check only tests whether the file exists.
  stale = [path for path in made if made[path] != present[path]] + [path for path in drawn if not path.is_file()]
  if given.check:
    for path in stale:
      print(f"{path} differs from {given.results}: run python -m fer_jax.apps.tables")
    return int(bool(stale))
  for path, text in (made | drawn).items():
    if path in stale or path in drawn:
      write_text(path, text)
  print(*made, *drawn, sep="\n")
  return 0


if __name__ == "__main__":
  run(main)
