"""The values that the template of a sweep's page lays out."""

import shlex
from collections.abc import Sequence

from markupsafe import Markup

from fer_jax.apps.formatting import count, percent
from fer_jax.apps.pages.charts import Chart
from fer_jax.apps.pages.plots import draw, draw_scatter
from fer_jax.apps.pages.render import render
from fer_jax.apps.report_page.replicas import SHARED
from fer_jax.apps.sweeps.figures import DotPlot, curves, lines, points, points_of, title_of
from fer_jax.apps.sweeps.outputs import CONVERGED, LAST_BATCHES, RunOutput
from fer_jax.apps.sweeps.sweep_result import CandidateResult, SweepResult
from fer_jax.apps.sweeps.table import candidate_table, class_table, quantities_of, with_interval
from fer_jax.training.run_files import Metrics

_BUILT_IN = {"synthetic_faces", "drawn_kdef_ck_plus", "drawn_jaffe"}
_SECTIONS = {
  "figures": "Figures",
  "candidates": "Paper and measured",
  "classes": "Classes",
  "runs": "Each run",
  "provenance": "How it was made",
}


def sweep_page(sweep: SweepResult, outputs: Sequence[RunOutput]) -> str:
  """Returns the self-contained HTML page of a sweep, with relative links to the reports of its runs.

  Args:
    sweep: Result of the sweep; the page is written next to its sweep.json.
    outputs: Runs that the result was gathered from, with their output.
  """
  contents = {
    "figures": _figures(sweep, outputs),
    "candidates": sweep.candidates,
    "classes": _classes(sweep),
    "runs": True,
    "provenance": True,
  }
  return render(
    "sweep.html",
    title=sweep.title,
    sections={anchor: heading for anchor, heading in _SECTIONS.items() if contents[anchor]},
    sweep=sweep,
    warnings=notices(sweep),
    all_runs=[run for row in sweep.candidates for run in row.runs],
    candidate_rows=candidate_table(sweep),
    candidate_notes=_candidate_notes(sweep),
    reports={o.run.workdir.name for o in outputs if (o.run.workdir / "report" / "index.html").is_file()},
    commands={row.name: shlex.join([row.config, *row.overrides]) for row in sweep.candidates},
    **contents,
  )


def notices(sweep: SweepResult) -> list[str]:
  """Returns warnings that limit what the page shows, as plain sentences."""
  failed = [row for row in sweep.candidates if row.status == "failed"]
  found = [f"{row.name} failed ({row.error}); the page shows only its finished runs." for row in failed]
  waiting = [row.name for row in sweep.candidates if row.status in ("unfinished", "not yet run")]
  if waiting:
    found.append(f"Not yet finished: {', '.join(waiting)}. Run the same command again to continue.")
  if _BUILT_IN & set(sweep.datasets):
    found.append("Built-in faces are for trials and tests: the results on this page do not apply to real faces.")
  folded = any(run.replicas for row in sweep.candidates for run in row.runs)
  if not folded and any(len(row.seeds) == 1 for row in sweep.candidates):
    found.append(
      "With one seed, an interval is over the test images; it does not include the variation between training runs."
    )
  for what, values in (("devices", sweep.devices), ("commits", sweep.commits)):
    if len(values) > 1:
      found.append(f"The runs have different {what}; see the table of runs.")
  return found


def _figures(sweep: SweepResult, outputs: Sequence[RunOutput]) -> list[tuple[Chart | DotPlot, Markup | None]]:
  """Returns the figures that have values, each with its SVG; the template draws a `DotPlot`, which has none."""
  logged: dict[str, list[Metrics]] = {row.name: [] for row in sweep.candidates}
  for output in outputs:
    logged[output.run.candidate] += output.logs
  drawn: list[tuple[Chart | DotPlot, Markup | None]] = []
  for figure in sweep.figures:
    rows = sweep.shown_in(figure)
    content: Chart | DotPlot | None = None
    svg = None
    if figure.kind == "points":
      content = points(figure, rows)
    elif figure.kind == "scatter" and (known := points_of(figure, rows)):
      content = Chart(title_of(figure), lines=(), note=figure.note)
      svg = draw_scatter(content.title, known, figure.over)
    elif figure.kind == "curves":
      content = curves(figure, {row.name: logged[row.name] for row in rows})
    elif figure.kind == "lines":
      content = lines(figure, rows, sweep.swept)
    if isinstance(content, Chart) and svg is None:
      svg = draw(content, phases=())
    if content:
      drawn.append((content, svg))
  return drawn


def _classes(sweep: SweepResult) -> list[tuple[str, list[str], list[list[str]]]]:
  """Returns a table of recall by class for each figure of kind "classes": its note, header and rows."""
  tables = [(figure.note, *class_table(sweep, figure)) for figure in sweep.figures if figure.kind == "classes"]
  return [(note, head, rows) for note, head, rows in tables if rows]


def _candidate_notes(sweep: SweepResult) -> list[str]:
  notes = [
    "Each run is tested once, with the parameters that were best on validation.",
    choice(sweep) if sweep.choose else "To choose among the candidates, use validation accuracy.",
  ]
  intervals = dict.fromkeys(row.interval for row in sweep.candidates if row.interval)
  if intervals:
    notes.append(f"95 % interval: {'; '.join(intervals)}.")
  if any("folds" in interval for interval in intervals):
    notes.append(SHARED)
  named = quantities_of(sweep)
  if "training accuracy" in named:
    notes.append(f"Training accuracy: mean over the last {LAST_BATCHES} logged batches.")
  if "steps to converge" in named:
    share = f"{percent(CONVERGED, 0)} of its maximum in the run"
    notes.append(f"Steps to converge: first step at which validation accuracy is at least {share}.")
  notes += [f"{name.capitalize()}: {sweep.timings}, on {sweep.timed_on}." for name in sweep.timed]
  if "seconds a step" not in sweep.timed:
    notes.append("Seconds a step: medians of the runs.")
  return notes


def choice(sweep: SweepResult) -> str:
  """Returns sentences on which candidate is chosen and why; with folds, also on a separate choice in each fold."""
  ground = f"{sweep.choose}, mean over the {_spread_over(sweep.candidates)}"
  chosen = next((row for row in sweep.candidates if row.name == sweep.chosen), None)
  if chosen is None:
    return f"One candidate will be chosen, by {ground}, when all have finished."
  text = (
    f"Chosen by {ground}: {chosen.name}. Its test accuracy, {percent(chosen.measured['test accuracy'])}, is "
    "unbiased by the choice, which used no test accuracy; the highest value of the column would be too optimistic."
  )
  by_fold = sweep.chosen_by_fold
  if by_fold is None:
    return text
  picks = ", ".join(f"{name} {count(folds)} \N{MULTIPLICATION SIGN}" for name, folds in by_fold.picks.items())
  return (
    f"{text} However, the validation images of one fold are test images of others. With a separate choice in each "
    "fold, by its own validation part "
    f"({picks}), test accuracy is {with_interval(percent(by_fold.accuracy), by_fold.interval_95)}."
  )


def _spread_over(rows: Sequence[CandidateResult]) -> str:
  """Returns what the runs of a candidate differ in: "folds", "seeds", "folds and seeds", or "runs"."""
  replicas = {run.replicas or "" for row in rows for run in row.runs}
  folds = any("folds" in of for of in replicas)
  seeds = any(len(row.seeds) > 1 for row in rows) or any("seeds" in of for of in replicas)
  return " and ".join(["folds"] * folds + ["seeds"] * seeds) or "runs"
