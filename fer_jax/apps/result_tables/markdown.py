"""Markdown tables and plots of measured results: one function for each kind of table that a page can contain."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.apps.formatting import (
  NOT_MEASURED,
  accuracy_estimate,
  count,
  device_of,
  percent,
  percent_range,
  quantity,
  short_commit,
)
from fer_jax.apps.report_page.figures import scatter_file
from fer_jax.apps.sweeps.figures import points_of
from fer_jax.apps.sweeps.table import class_table, member_table
from fer_jax.config.command_line import load_config
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_files import Record

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


def kind_of(result: Mapping[str, Any]) -> str | None:
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
  return [
    name,
    f"`{config}`",
    str(result.get("dataset") or "not stated"),
    accuracy,
    _seconds(result, ("seconds",)),
    count(result.get("steps")),
    device_of(result),
    f"`{short_commit(result.get('commit'))}`",
  ]


def _accuracy_table(names: Sequence[str], results: Mapping[str, Record]) -> str:
  return _markdown(_ACCURACY, [_accuracy_row(name, results.get(name)) for name in names], texts=(0, 1, 2, 6, 7))


def _seconds(result: Mapping[str, Any], keys: Sequence[str]) -> str:
  """Formats the largest of the wall-clock seconds under these keys, or the processor time of a run that counts it."""
  processor = result.get("clock") == "cpu"
  seconds = max((result[key] for key in (("seconds",) if processor else keys) if result.get(key)), default=None)
  return NOT_MEASURED if seconds is None else f"{seconds:,.0f}" + " (CPU time)" * processor


def _views_rows(name: str, result: Mapping[str, Any] | None) -> list[list[str]]:
  """Returns one row for each TTA protocol; with several replicas, the accuracy has a standard deviation."""
  if result is None:
    return [[name, "", "", NOT_MEASURED, "", "", "", "", ""]]
  if not result.get("views"):
    raise UserError(f"results/{name}.json: expected the key views for a table of views; name another file")
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
        # `process_seconds` includes the start of the process; `seconds` of a resumed run its earlier processes.
        _seconds(result, ("process_seconds", "seconds")),
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
  if kind_of(bench) != "bench":
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
  if kind_of(sweep) != "sweep":
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
    for figure in _scatters(result) if kind_of(result) == "sweep" else ():
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


def table(kind: str, options: str, results: Mapping[str, Record], where: str) -> str:
  """Returns the Markdown of a marked table.

  Args:
    kind: Word after `results:` in the marker; see `fer_jax.apps.tables`.
    options: Rest of the marker, such as " rows=a,b columns=key".
    results: Content of each results file by name.
    where: Page and line of the marker, for error messages.

  Raises:
    UserError: The marker is unknown, or names a file or a column that does not fit.
  """
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
      name for name, result in results.items() if kind == kind_of(result) or (kind == "views" and result.get(kind))
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
