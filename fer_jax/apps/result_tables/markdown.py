"""Markdown tables and plots of measured results: one function for each kind of table that a page can contain."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fer_jax.apps.benchmarks.benchmark_result import BenchmarkResult
from fer_jax.apps.formatting import (
  NOT_MEASURED,
  accuracy_estimate,
  count,
  device_of,
  percent,
  quantity,
  short_commit,
)
from fer_jax.apps.pages.plots import scatter_file
from fer_jax.apps.sweeps.figures import points_of
from fer_jax.apps.sweeps.sweep_result import SweepResult
from fer_jax.apps.sweeps.table import candidate_table, class_table, with_interval
from fer_jax.config.command_line import load_config
from fer_jax.config.sweep import Figure
from fer_jax.runtime.errors import UserError
from fer_jax.training.run_result import RunResult

T = TypeVar("T")
Result = RunResult | BenchmarkResult | SweepResult
Results = Mapping[str, Result]  # by name of the file, without suffix
_DESCRIPTIONS: dict[type, str] = {
  RunResult: "the result of a run",
  BenchmarkResult: "the result of a benchmark",
  SweepResult: "the result of a sweep",
}
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
  "run",
  "views",
  "validation accuracy",
  "test accuracy",
  "without images seen in training",
  "seeds",
  "seconds",
  "device",
  "commit",
]
_HEADINGS = {
  "images_per_second": "images/s",
  "optax_centralize": "`optax.centralize`",
  "bound": "steps that may be lost",
  "share_low": "from (95 %)",
  "share_high": "to (95 %)",
  "trainings": "runs",  # written by earlier versions
}
# Benchmarks that run nothing: they compile for a GPU that is not there.
_COMPILED = frozenset({"gpu", "scaling"})


def _find(results: Results, name: str, kind: type[T]) -> T | None:
  """Returns the result of this name; None if there is none. Raises UserError if it is of another kind."""
  result = results.get(name)
  if result is None or isinstance(result, kind):
    return result
  raise UserError(f"results/{name}.json: expected {_DESCRIPTIONS[kind]}; name another file")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int]) -> str:
  """Returns a Markdown table; the columns at positions `texts` are left-aligned, the others right-aligned."""
  rule = [":---" if position in texts else "---:" for position in range(len(head))]
  lines = [head, rule, *([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _accuracy_row(name: str, result: RunResult | None) -> list[str]:
  if result is None:
    return [name, "", "", NOT_MEASURED, "", "", "", ""]
  estimate = accuracy_estimate(result)
  accuracy = with_interval(percent(estimate.value), estimate.interval)
  return [
    name,
    f"`{' '.join([result.config, *(result.overrides or ())])}`",
    result.dataset,
    f"{accuracy}, {estimate.meaning}" if result.several else accuracy,
    _seconds(result, result.seconds),
    count(result.steps),
    device_of(result),
    f"`{short_commit(result.commit)}`",
  ]


def _accuracy_table(names: Sequence[str], results: Results) -> str:
  rows = [_accuracy_row(name, _find(results, name, RunResult)) for name in names]
  return _markdown(_ACCURACY, rows, texts=(0, 1, 2, 6, 7))


def _seconds(result: RunResult, wall_seconds: float) -> str:
  """Formats the wall-clock seconds of a run, or its processor time if it counts that."""
  return f"{result.seconds:,.0f} (CPU time)" if result.clock == "cpu" else f"{wall_seconds:,.0f}"


def _views_rows(name: str, result: RunResult | None) -> list[list[str]]:
  """Returns one row for each TTA protocol; with several replicas, the accuracy has a standard deviation."""
  if result is None:
    return [[name, "", "", NOT_MEASURED, "", "", "", "", ""]]
  if not result.views:
    raise UserError(f"results/{name}.json: expected the key views for a table of views; name another file")
  return [
    [
      name,
      protocol.replace("_", " "),
      percent(view.validation),
      percent(view.test) + ("" if view.std is None else f" ± {percent(view.std)}"),
      "no image" if view.deduplicated is None else percent(view.deduplicated),
      count(len(result.seeds)),
      # `process_seconds` includes the start of the process; `seconds` of a resumed run its earlier processes.
      _seconds(result, max(result.process_seconds or 0.0, result.seconds)),
      device_of(result),
      f"`{short_commit(result.commit)}`",
    ]
    for protocol, view in result.views.items()
  ]


def _views_table(names: Sequence[str], results: Results) -> str:
  rows = [row for name in names for row in _views_rows(name, _find(results, name, RunResult))]
  return _markdown(_VIEWS, rows, texts=(0, 1, 7, 8))


def _bench_table(name: str, bench: BenchmarkResult | None, columns: Sequence[str] = ()) -> str:
  if bench is None:
    return f"**{name}**: {NOT_MEASURED}"
  rows = bench.rows
  known = list(dict.fromkeys(key for row in rows for key in row if key != "name"))
  for key in columns:
    if key not in known:
      raise UserError(f"results/{name}.json: has no column {key!r}; expected some of {', '.join(known)}")
  keys = columns or known
  if columns:
    rows = tuple(row for row in rows if any(key in row for key in columns))
  verb = "Compiled" if bench.what in _COMPILED else "Measured"
  head = [bench.what, *(_HEADINGS.get(key, key.replace("_", " ")) for key in keys)]
  # Rows of a compiling benchmark have what applies to their program, such as collectives or a ratio to another one.
  blank = bench.what in _COMPILED
  cells = [
    [str(row.get("name", "")), *("" if blank and k not in row else _figure(k, row) for k in keys)] for row in rows
  ]
  return f"{_markdown(head, cells, texts=(0,))}\n\n{_made([bench.device], bench.versions, [bench.commit], verb)}"


def _figure(key: str, row: Mapping[str, Any]) -> str:
  # Missing figures of a paper, and ratios without a counterpart, are left blank: there is nothing to measure.
  optional = key.startswith("paper_") or "_over_" in key
  return "" if optional and key not in row else quantity(key, row.get(key))


def _made(devices: Sequence[str], versions: Mapping[str, str], commits: Sequence[str], verb: str = "Measured") -> str:
  packages = ", ".join(f"{package} {version}" for package, version in versions.items())
  of = ", ".join(f"`{short_commit(commit)}`" for commit in commits)
  return f"{verb} on {', '.join(devices)}; {packages or 'versions not stated'}; commit {of}."


def _sweep_table(name: str, sweep: SweepResult | None) -> str:
  if sweep is None:
    return f"**{name}**: {NOT_MEASURED}"
  command = " ".join([sweep.sweep, *sweep.overrides])
  about = f"**{sweep.title}** (`{command}`; {', '.join(sweep.datasets) or NOT_MEASURED}; {sweep.citation})"
  parts = [about, _markdown(*candidate_table(sweep), texts=(0,))]
  for figure in sweep.figures:
    head, rows = class_table(sweep, figure) if figure.kind == "classes" else ([], [])
    parts += [_markdown(head, rows, texts=(0,))] if rows else []
  parts += [f"![{_plot_title(figure)}]({_plot_file(name, figure)})" for figure in _scatters(sweep)]
  parts += [_made(sweep.devices, sweep.versions, sweep.commits)] if sweep.devices else []
  return "\n\n".join(parts)


def _scatters(sweep: SweepResult) -> list[Figure]:
  """Returns the scatter plots of a sweep that have points."""
  return [figure for figure in sweep.figures if figure.kind == "scatter" and points_of(figure, sweep.candidates)]


def _plot_file(name: str, figure: Figure) -> str:
  return f"{name}_over_{figure.over.replace(' ', '_')}.svg"


def _plot_title(figure: Figure) -> str:
  return f"{figure.quantity.capitalize()} over {figure.over}"


def plots(page: str, results: Results) -> dict[str, str]:
  """Returns the plots that a page contains, as SVG text by file name."""
  found = {}
  for name, result in results.items():
    if not isinstance(result, SweepResult):
      continue
    for figure in _scatters(result):
      file = _plot_file(name, figure)
      if f"]({file})" in page:
        found[file] = scatter_file(_plot_title(figure), points_of(figure, result.candidates), figure.over)
  return found


def _claims_table(names: Sequence[str], results: Results) -> str:
  """Returns the claim of the paper of each config next to a run of it; a name is `CONFIG` or `CONFIG:RESULT`."""
  rows = []
  for config, _, name in (each.partition(":") for each in names):
    paper = load_config(f"configs/{config}.py")
    claim = f"{percent(paper.paper.reported['test accuracy'])} on {paper.data.name}"
    result = _find(results, name, RunResult)
    measured = NOT_MEASURED if result is None else f"{percent(result.accuracy)} by `{result.config}`"
    rows.append([f"[{config}](configs/{config}.py)", paper.paper.title, claim, measured])
  return _markdown(["system", "paper", "claim", "measured here"], rows, texts=(0, 1, 2, 3))


def table(kind: str, options: str, results: Results, where: str) -> str:
  """Returns the Markdown of a marked table.

  Args:
    kind: Word after `results:` in the marker; see `fer_jax.apps.tables`.
    options: Rest of the marker, such as " rows=a,b columns=key".
    results: Results by name of their file.
    where: Page and line of the marker, for error messages.

  Raises:
    UserError: The marker is unknown, or names a file or a column that does not fit.
  """
  given = re.fullmatch(r"\s*(?:rows=(\S+))?(?:\s+columns=(\S+))?\s*", options)
  if kind not in ("accuracy", "views", "claims", "bench", "sweep") or given is None or (given[2] and kind != "bench"):
    raise UserError(
      f"{where}: expected `<!-- results:accuracy rows=a,b -->`, or views, bench, sweep or claims instead of accuracy, "
      f"found `results:{kind}{options}`; correct the marker"
    )
  if given[1]:
    names = [name for name in given[1].split(",") if name]
  else:
    names = [name for name, result in results.items() if _is_shown(result, kind)]
  if not names:
    return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
  if kind == "sweep":
    return "\n\n".join(_sweep_table(name, _find(results, name, SweepResult)) for name in names)
  if kind == "bench":
    columns = [key for key in (given[2] or "").split(",") if key]
    return "\n\n".join(_bench_table(name, _find(results, name, BenchmarkResult), columns) for name in names)
  return {"accuracy": _accuracy_table, "views": _views_table, "claims": _claims_table}[kind](names, results)


def _is_shown(result: Result, kind: str) -> bool:
  """Returns whether a table of this kind without `rows` shows a result."""
  if isinstance(result, RunResult):
    return kind == "accuracy" or (kind == "views" and bool(result.views))
  return kind == ("sweep" if isinstance(result, SweepResult) else "bench")
