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
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.apps.report_page.figures import scatter_file
from fer_jax.apps.report_page.quantities import (
  NOT_MEASURED,
  accuracy_estimate,
  count,
  device_of,
  percent,
  percent_range,
  quantity,
  short_commit,
)
from fer_jax.apps.report_page.run_files import Record, read_json, write_text
from fer_jax.apps.sweeps.figures import points_of
from fer_jax.apps.sweeps.table import class_table, member_table
from fer_jax.command_line import load_config
from fer_jax.errors import UserError, run

_BLOCK = re.compile(
  r"(?P<start><!-- results:(?P<table>\S+)(?P<options>[^>]*?) -->\n).*?(?P<end><!-- /results -->)", re.DOTALL
)
_START, _END = "<!-- results:", "<!-- /results -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ACCURACY = [
  "run",
  "config",
  "dataset",
  "test accuracy (95 % interval)",
  "seconds",
  "steps",
  "device",
  "commit",
]
_VIEWS = [
  *("run", "views", "validation accuracy", "test accuracy", "without images seen in training", "seeds", "seconds"),
  *("device", "commit"),
]
_HEADINGS = {
  "images_per_second": "images/s",
  "optax_centralize": "`optax.centralize`",
  "bound": "steps that may be lost",
  "share_low": "from (95 %)",
  "share_high": "to (95 %)",
}


def load_results(folder: Path) -> dict[str, Record]:
  """Reads every `*.json` of the results folder.

  Args:
    folder: Results folder; a folder that does not exist has no results.

  Returns:
    Content of each file, by file name without suffix.

  Raises:
    UserError: A file is neither the result of a run, nor of a benchmark, nor of a sweep.
  """
  results = {}
  for path in sorted(folder.glob("*.json")):
    result = read_json(path)
    if _kind(result) is None:
      raise UserError(
        f"{path}: expected a run's result (accuracy), a benchmark's (what, rows) or a sweep's (sweep, rows); write it "
        "again with --add, with the benchmark or with the sweep"
      )
    results[path.stem] = result
  return results


def add_result(workdir: Path, name: str, folder: Path) -> Path:
  """Copies a run's `result.json` to `folder/name.json` and adds the overrides of its config.

  Args:
    workdir: Workdir of a finished run.
    name: Name of the new file, without suffix.
    folder: Results folder.

  Returns:
    Path of the new file.

  Raises:
    UserError: The run has no test accuracy yet, or the name contains other characters than allowed.
  """
  if not _NAME.fullmatch(name):
    raise UserError(f"--name={name}: expected letters, digits, '_', '-' and '.'; give another")
  source = workdir / "result.json"
  if not source.is_file():
    raise UserError(f"{source}: expected the result of a finished run, but there is none; finish the run first")
  result = read_json(source)
  if result.get("accuracy") is None:
    raise UserError(f"{source}: expected the key accuracy, but it is missing; evaluate the run on its test split")
  config = workdir / "config.json"
  if "overrides" not in result and config.is_file():
    overrides = read_json(config).get("overrides") or []
    # The location of the data on one machine does not affect the measurement.
    result["overrides"] = [o for o in overrides if not re.match(r"--?config\.data\.data_dir=", o)]
  path = folder / f"{name}.json"
  write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
  return path


def _kind(result: Mapping[str, Any]) -> str | None:
  """Returns the kind of table that shows a result; None if the content is not a result."""
  if isinstance(result.get("rows"), list):
    return "bench" if "what" in result else "sweep" if "sweep" in result else None
  return None if result.get("accuracy") is None else "accuracy"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int]) -> str:
  """Returns a Markdown table; the columns at positions `texts` are left-aligned, the others right-aligned."""
  rule = [":---" if position in texts else "---:" for position in range(len(head))]
  lines = [head, rule, *([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _accuracy_row(name: str, result: Mapping[str, Any] | None) -> list[str]:
  if result is None:
    return [name, "", "", NOT_MEASURED, "", "", "", ""]
  estimate = accuracy_estimate(result)
  if estimate is None:
    raise UserError(f"results/{name}.json: expected the key accuracy for a row of accuracy; name another file")
  accuracy = percent(estimate.value)
  if estimate.interval is not None:
    accuracy += f" ({percent_range(*estimate.interval)})"
  if len(result.get("runs") or []) > 1:
    accuracy += f", {estimate.meaning}"
  config = " ".join([str(result.get("config") or "not stated"), *map(str, result.get("overrides") or [])])
  seconds = result.get("seconds")
  return [
    name,
    f"`{config}`",
    str(result.get("dataset") or "not stated"),
    accuracy,
    NOT_MEASURED if seconds is None else f"{seconds:,.0f}",
    count(result.get("steps")),
    device_of(result),
    f"`{short_commit(result.get('commit'))}`",
  ]


def _accuracy_table(names: Sequence[str], results: Mapping[str, Record]) -> str:
  return _markdown(_ACCURACY, [_accuracy_row(name, results.get(name)) for name in names], texts=(0, 1, 2, 6, 7))


def _views_rows(name: str, result: Mapping[str, Any] | None) -> list[list[str]]:
  """Returns one row for each TTA protocol; with several replicas, the accuracy has a standard deviation."""
  if result is None:
    return [[name, "", "", NOT_MEASURED, "", "", "", "", ""]]
  if not result.get("views"):
    raise UserError(f"results/{name}.json: expected the key views for a table of views; name another file")
  # `process_seconds` includes the start of the process; `seconds` of a resumed run includes its earlier processes.
  seconds = max((result[key] for key in ("process_seconds", "seconds") if result.get(key)), default=None)
  rows = []
  for protocol, figures in result["views"].items():
    deviation = "" if figures.get("std") is None else f" ± {percent(figures['std'])}"
    unseen = "no image" if figures["deduplicated"] is None else percent(figures["deduplicated"])
    rows.append(
      [
        name,
        protocol.replace("_", " "),
        percent(figures["validation"]),
        percent(figures["test"]) + deviation,
        unseen,
        count(len(result.get("seeds") or [])),
        NOT_MEASURED if seconds is None else f"{seconds:,.0f}",
        device_of(result),
        f"`{short_commit(result.get('commit'))}`",
      ]
    )
  return rows


def _views_table(names: Sequence[str], results: Mapping[str, Record]) -> str:
  return _markdown(_VIEWS, [row for name in names for row in _views_rows(name, results.get(name))], texts=(0, 1, 7, 8))


def _bench_table(name: str, bench: Record | None, columns: Sequence[str] = ()) -> str:
  if bench is None:
    return f"**{name}**: {NOT_MEASURED}"
  if _kind(bench) != "bench":
    raise UserError(f"results/{name}.json: expected a benchmark's keys what and rows; name another file")
  rows: list[Record] = bench["rows"]
  known = list(dict.fromkeys(key for row in rows for key in row if key != "name"))
  for key in columns:
    if key not in known:
      raise UserError(f"results/{name}.json: has no column {key!r}; expected some of {', '.join(known)}")
  keys = columns or known
  if columns:
    rows = [row for row in rows if any(key in row for key in columns)]
  head = [str(bench["what"]), *(_HEADINGS.get(key, key.replace("_", " ")) for key in keys)]
  cells = [[str(row.get("name", "")), *(_figure(key, row) for key in keys)] for row in rows]
  made = _made([bench.get("device", "device not stated")], bench.get("versions"), [bench.get("commit")])
  return f"{_markdown(head, cells, texts=(0,))}\n\n{made}"


def _figure(key: str, row: Record) -> str:
  # Missing figures of a paper, and ratios without a counterpart, are left blank: there is nothing to measure.
  optional = key.startswith("paper_") or "_over_" in key
  return "" if optional and key not in row else quantity(key, row.get(key))


def _made(devices: Sequence[str], versions: Mapping[str, str] | None, commits: Sequence[str | None]) -> str:
  packages = ", ".join(f"{package} {version}" for package, version in (versions or {}).items())
  of = ", ".join(f"`{short_commit(commit)}`" for commit in commits)
  return f"Measured on {', '.join(devices)}; {packages or 'versions not stated'}; commit {of}."


def _sweep_table(name: str, sweep: Record | None) -> str:
  if sweep is None:
    return f"**{name}**: {NOT_MEASURED}"
  if _kind(sweep) != "sweep":
    raise UserError(f"results/{name}.json: expected a sweep's keys sweep and rows; name another file")
  head, rows = member_table(sweep)
  command = " ".join([sweep["sweep"], *sweep["overrides"]])
  about = f"**{sweep['title']}** (`{command}`; {', '.join(sweep['datasets']) or NOT_MEASURED}; {sweep['citation']})"
  parts = [about, _markdown(head, rows, texts=(0,))]
  for figure in sweep.get("figures", ()):
    by_class = class_table(sweep, figure["members"]) if figure["kind"] == "classes" else ([], [])
    parts += [_markdown(*by_class, texts=(0,))] if by_class[1] else []
  parts += [f"![{_plot_title(figure)}]({name}.svg)" for figure in _scatters(sweep)]
  parts += [_made(sweep["devices"], sweep["versions"], sweep["commits"])] if sweep["devices"] else []
  return "\n\n".join(parts)


def _scatters(sweep: Record) -> list[Record]:
  """Returns a list with the scatter plot of a sweep; empty if the plot has no points yet."""
  figures = [figure for figure in sweep.get("figures", ()) if figure["kind"] == "scatter"]
  return [figure for figure in figures[:1] if points_of(figure["quantity"], figure["over"], sweep["rows"])]


def _plot_title(figure: Record) -> str:
  return f"{figure['quantity'].capitalize()} over {figure['over']}"


def plots(page: str, results: Mapping[str, Record]) -> dict[str, str]:
  """Returns the plots that a page contains, as SVG text by file name."""
  found = {}
  for name, result in results.items():
    for figure in _scatters(result) if _kind(result) == "sweep" else ():
      if f"]({name}.svg)" in page:
        points = points_of(figure["quantity"], figure["over"], result["rows"])
        found[f"{name}.svg"] = scatter_file(_plot_title(figure), points, figure["over"])
  return found


def _claims_table(names: Sequence[str], results: Mapping[str, Record]) -> str:
  """Returns the claim of the paper of each config next to a run of it; a name is `CONFIG` or `CONFIG:RESULT`."""
  rows = []
  for config, _, name in (each.partition(":") for each in names):
    paper = load_config(f"configs/{config}.py")
    claim = f"{percent(paper.paper.reported['test accuracy'])} on {paper.data.name}"
    result = results.get(name)
    estimate = accuracy_estimate(result) if result is not None else None
    measured = NOT_MEASURED
    if result is not None and estimate is not None:
      measured = f"{percent(estimate.value)} by `{result['config']}`"
    rows.append([f"[{config}](configs/{config}.py)", paper.paper.title, claim, measured])
  return _markdown(["system", "paper", "claim", "measured here"], rows, texts=(0, 1, 2, 3))


def _table(kind: str, options: str, results: Mapping[str, Record], where: str) -> str:
  given = re.fullmatch(r"\s*(?:rows=(\S+))?(?:\s+columns=(\S+))?\s*", options)
  of_all = {"accuracy": _accuracy_table, "views": _views_table}
  if kind not in (*of_all, "bench", "sweep", "claims") or given is None or (given[2] and kind != "bench"):
    raise UserError(
      f"{where}: expected `<!-- results:accuracy rows=a,b -->`, or views, bench, sweep or claims instead of accuracy, "
      f"found `results:{kind}{options}`; correct the marker"
    )
  if given[1]:
    names = [name for name in given[1].split(",") if name]
  else:
    names = [
      name for name, result in results.items() if kind == _kind(result) or (kind == "views" and result.get(kind))
    ]
  if not names:
    return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
  if kind in of_all:
    return of_all[kind](names, results)
  if kind == "claims":
    return _claims_table(names, results)
  if kind == "sweep":
    return "\n\n".join(_sweep_table(name, results.get(name)) for name in names)
  columns = [key for key in (given[2] or "").split(",") if key]
  return "\n\n".join(_bench_table(name, results.get(name), columns) for name in names)


def render(page: str, results: Mapping[str, Record], where: str = "README.md") -> str:
  """Returns the text of a page with every marked table regenerated from the results.

  Args:
    page: Text with at least one pair of markers.
    results: Content of each results file by name, from `load_results`.
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
    made = _table(block["table"], block["options"], results, f"{where}:{line}")
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
  parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results' JSON files")
  parser.add_argument(
    "--readme",
    type=Path,
    default=Path("README.md"),
    help="README file; the pages of the docs/ folder next to it are included",
  )
  action = parser.add_mutually_exclusive_group()
  action.add_argument("--check", action="store_true", help="compare only; exit with status 1 if a table differs")
  action.add_argument(
    "--add", type=Path, metavar="WORKDIR", help="copy the result of this run to the results, as --name"
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
