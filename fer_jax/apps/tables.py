"""Writes the tables of the README and of docs/ from the measured results, so that no figure is typed by hand.

Usage:
  python -m fer_jax.apps.tables --add=WORKDIR --name=NAME     keep a run's result as results/NAME.json
  python -m fer_jax.apps.tables [--results=results] [--readme=README.md]     rewrite the tables
  python -m fer_jax.apps.tables --check     exit with status 1 where a table differs from the results

The pages are the README and, of the `docs/*.md` beside it, those that hold a marker. A table stands between
`<!-- results:accuracy rows=a,b -->` and `<!-- /results -->`. `accuracy` has a row for each result `results/a.json`,
`results/b.json`, and `views` one for each way to average views of an image in them; `bench` has a table for each of
these files that a benchmark wrote, whole or with the columns of `columns=key,key` and the rows that have any of them,
`sweep` for each that `launch/sweep.py --name=a` kept, with a.svg beside the page where it has a scatter plot. Without
`rows`, all files of the kind are shown, by name; a file that is named and absent shows as "not yet measured".
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
  """Reads every `*.json` of the results folder, by the file's name without its suffix.

  An absent folder holds no results.

  Raises:
    UserError: a file is neither a run's result nor a benchmark's nor a sweep's.
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
  """Keeps a run's `result.json` as `folder/name.json`, whole, with its config's overrides; returns the path.

  Raises:
    UserError: the run has no test accuracy yet, or the name is not one word.
  """
  if not _NAME.fullmatch(name):
    raise UserError(f"--name={name}: expected letters, digits, '_', '-' and '.'; give another")
  source = workdir / "result.json"
  if not source.is_file():
    raise UserError(f"{source}: expected the result of a finished run, but there is none; let the training end first")
  result = read_json(source)
  if result.get("accuracy") is None:
    raise UserError(f"{source}: expected the key accuracy, but it is missing; evaluate the run on its test split")
  config = workdir / "config.json"
  if "overrides" not in result and config.is_file():
    overrides = read_json(config).get("overrides") or []
    # Where a machine keeps its data is no part of what was measured.
    result["overrides"] = [o for o in overrides if not re.match(r"--?config\.data\.data_dir=", o)]
  path = folder / f"{name}.json"
  write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
  return path


def _kind(result: Mapping[str, Any]) -> str | None:
  """Returns which table shows a result; None where none does."""
  if isinstance(result.get("rows"), list):
    return "bench" if "what" in result else "sweep" if "sweep" in result else None
  return None if result.get("accuracy") is None else "accuracy"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int]) -> str:
  """Returns a Markdown table; the columns at `texts` are aligned left, the others right."""
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
  """Returns a row for each way to average views of an image, those of several trainings with their deviation."""
  if result is None:
    return [[name, "", "", NOT_MEASURED, "", "", "", "", ""]]
  if not result.get("views"):
    raise UserError(f"results/{name}.json: expected the key views for a table of views; name another file")
  # A process counts its own start; a run that was resumed, the processes before as well.
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
  # What a paper does not print, or one row does not have to be compared with, could not be measured either.
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
  """Returns the scatter plot of a sweep, in a list; none where it has no point yet."""
  figures = [figure for figure in sweep.get("figures", ()) if figure["kind"] == "scatter"]
  return [figure for figure in figures[:1] if points_of(figure["quantity"], figure["over"], sweep["rows"])]


def _plot_title(figure: Record) -> str:
  return f"{figure['quantity'].capitalize()} over {figure['over']}"


def plots(page: str, results: Mapping[str, Record]) -> dict[str, str]:
  """Returns the plots that a page shows, as SVG by the name of the file beside it."""
  found = {}
  for name, result in results.items():
    for figure in _scatters(result) if _kind(result) == "sweep" else ():
      if f"]({name}.svg)" in page:
        points = points_of(figure["quantity"], figure["over"], result["rows"])
        found[f"{name}.svg"] = scatter_file(_plot_title(figure), points, figure["over"])
  return found


def _table(kind: str, options: str, results: Mapping[str, Record], where: str) -> str:
  given = re.fullmatch(r"\s*(?:rows=(\S+))?(?:\s+columns=(\S+))?\s*", options)
  of_all = {"accuracy": _accuracy_table, "views": _views_table}
  if kind not in (*of_all, "bench", "sweep") or given is None or (given[2] and kind != "bench"):
    raise UserError(
      f"{where}: expected `<!-- results:accuracy rows=a,b -->`, or views, bench or sweep in place of accuracy, found "
      f"`results:{kind}{options}`; correct the marker"
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
  if kind == "sweep":
    return "\n\n".join(_sweep_table(name, results.get(name)) for name in names)
  columns = [key for key in (given[2] or "").split(",") if key]
  return "\n\n".join(_bench_table(name, results.get(name), columns) for name in names)


def render(page: str, results: Mapping[str, Record], where: str = "README.md") -> str:
  """Returns a page's text with every marked table made anew from the results.

  Args:
    page: the text, with at least one pair of markers.
    results: each results file's content by name, as `load_results` reads them.
    where: the page's name in messages.

  Raises:
    UserError: no marker, one that is not closed or not known, or a row that names a file of the other kind.
  """
  blocks = list(_BLOCK.finditer(page))
  # A start without its end swallows the next block: then a block holds a second start.
  if len(blocks) != page.count(_START) or len(blocks) != page.count(_END):
    raise UserError(
      f"{where}: expected each `<!-- results:NAME -->` on a line of its own before its own `{_END}`, found "
      f"{page.count(_START)} starts and {page.count(_END)} ends; pair them"
    )
  if not blocks:
    raise UserError(f"{where}: expected a marker `<!-- results:NAME -->`, found none; put one where a table belongs")

  def remade(block: re.Match[str]) -> str:
    line = page.count("\n", 0, block.start()) + 1
    made = _table(block["table"], block["options"], results, f"{where}:{line}")
    # Markdown needs an empty line between a comment and a table.
    return f"{block['start']}\n{made}\n\n{block['end']}"

  return _BLOCK.sub(remade, page)


def _pages(readme: Path) -> dict[Path, str]:
  """Returns the README's text, and that of each page of the docs beside it that holds a marker.

  Raises:
    UserError: a page cannot be read.
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
  """Runs the command line; returns 1 where `--check` finds a difference, else 0."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.tables",
    description="Write the tables of the README and of docs/ from the measured results.",
  )
  parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results' JSON files")
  parser.add_argument(
    "--readme", type=Path, default=Path("README.md"), help="beside it stands docs/, whose tables are made too"
  )
  action = parser.add_mutually_exclusive_group()
  action.add_argument("--check", action="store_true", help="compare only; status 1 where they differ")
  action.add_argument("--add", type=Path, metavar="WORKDIR", help="keep this run's result under --name")
  parser.add_argument("--name", help="with --add: the results file's name, without .json")
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
  # What a plot looks like to the byte depends on the version of matplotlib: it is only looked whether it is there.
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
