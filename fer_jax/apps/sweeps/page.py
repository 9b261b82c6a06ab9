"""The page of a sweep: figures, candidates compared with the paper, runs, and provenance."""

import shlex
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from fer_jax.apps.formatting import NOT_MEASURED, count, duration, percent, short_commit
from fer_jax.apps.report_page.replicas import SHARED
from fer_jax.apps.sweeps.figures import curves, lines, points, scatter
from fer_jax.apps.sweeps.markup import Section, bullets, document, facts, said, table
from fer_jax.apps.sweeps.outputs import CONVERGED, LAST_BATCHES, RunOutput
from fer_jax.apps.sweeps.sweep_result import CandidateResult, SweepResult
from fer_jax.apps.sweeps.table import candidate_table, class_table, quantities_of, with_interval
from fer_jax.training.run_files import Metrics

_BUILT_IN = {"synthetic_faces", "drawn_kdef_ck_plus", "drawn_jaffe"}


def sweep_page(sweep: SweepResult, outputs: Sequence[RunOutput]) -> str:
  """Returns the self-contained HTML page of a sweep, with relative links to the reports of its runs.

  Args:
    sweep: Result of the sweep; the page is written next to its sweep.json.
    outputs: Runs that the result was gathered from, with their output.
  """
  parts = [_figures(sweep, outputs), _candidates(sweep), _classes(sweep), _runs(sweep, outputs), _provenance(sweep)]
  return document(sweep.title, _header(sweep), [part for part in parts if part is not None])


def _header(sweep: SweepResult) -> str:
  runs = [run for row in sweep.candidates for run in row.runs]
  finished = sum(run.status == "finished" for run in runs)
  steps = sorted({row.steps for row in sweep.candidates if row.steps is not None})
  ends = dict.fromkeys(steps[:1] + steps[-1:])  # the smallest and the largest, once if they are equal
  listed = facts(
    [
      ("Runs", f"{finished} of {len(runs)} finished", f"of {len(sweep.candidates)} candidates"),
      ("Seeds", ", ".join(map(str, sweep.seeds)), "of each candidate"),
      ("Steps", " \N{EN DASH} ".join(map(count, ends)) or NOT_MEASURED, "of each run"),
      ("Time", duration(sweep.seconds) if finished else NOT_MEASURED, "all runs together"),
      ("Dataset", ", ".join(sweep.datasets) or "not stated", ""),
      ("Device", "; ".join(sweep.devices) or "not stated", ""),
    ]
  )
  warned = "".join(f'<p class="notice" role="note">{escape(text)}</p>' for text in notices(sweep))
  return (
    f'<header><div class="eyebrow">{escape(sweep.sweep)}</div><h1>{escape(sweep.title)}</h1>'
    f'<div class="muted">{escape(sweep.citation)}</div>{warned}'
    f'<div class="headline"><div><h3>The paper\'s finding</h3><p>{escape(sweep.claim)}</p></div>'
    f"{listed}</div></header>"
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


def _figures(sweep: SweepResult, outputs: Sequence[RunOutput]) -> Section | None:
  logged: dict[str, list[Metrics]] = {row.name: [] for row in sweep.candidates}
  for output in outputs:
    logged[output.run.candidate] += output.logs
  drawn = []
  for figure in sweep.figures:
    rows = sweep.shown_in(figure)
    if figure.kind == "curves":
      drawn.append(curves(figure, {row.name: logged[row.name] for row in rows}))
    elif figure.kind == "points":
      drawn.append(points(figure, rows))
    elif figure.kind == "scatter":
      drawn.append(scatter(figure, rows))
    elif figure.kind == "lines":
      drawn.append(lines(figure, rows, sweep.swept))
  drawn = [each for each in drawn if each]
  return Section("figures", "Figures", f'<div class="columns">{"".join(drawn)}</div>') if drawn else None


def _classes(sweep: SweepResult) -> Section | None:
  parts = []
  for figure in sweep.figures:
    head, rows = class_table(sweep, figure) if figure.kind == "classes" else ([], [])
    if rows:
      cells = [[escape(name), *map(said, others)] for name, *others in rows]
      note = f'<p class="lead">{escape(figure.note)}</p>' if figure.note else ""
      parts.append(f"{note}{table(head, cells)}")
  return Section("classes", "Classes", f'<div class="candidates">{"".join(parts)}</div>') if parts else None


def _candidates(sweep: SweepResult) -> Section:
  head, rows = candidate_table(sweep)
  cells = [[f'<span class="candidate">{escape(name)}</span>', *map(said, others)] for name, *others in rows]
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
  lead = "".join(f'<p class="lead">{escape(note)}</p>' for note in notes)
  body = f'<div class="candidates">{table(head, cells)}</div><div class="apart">{lead}</div>'
  return Section("candidates", "Paper and measured", body)


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


def _runs(sweep: SweepResult, outputs: Sequence[RunOutput]) -> Section:
  reports = {o.run.workdir.name for o in outputs if (o.run.workdir / "report" / "index.html").is_file()}
  several = len(sweep.devices) > 1
  cells = []
  for row in sweep.candidates:
    for run in row.runs:
      name = f"{escape(row.name)}, seed {run.seed}"
      if run.run in reports:
        name = f'<a href="../runs/{quote(run.run)}/report/index.html">{name}</a>'
      cells.append(
        [
          f'<span class="nowrap">{name}</span>',
          said(percent(run.accuracy)),
          said(percent(run.validation_accuracy)),
          said(count(run.steps)),
          said(duration(run.seconds)),
          escape(str(run.stopped if run.status == "finished" else run.status)),
          f"<code>{escape(short_commit(run.commit))}</code>" if run.commit else "",
          *([escape(run.device or "")] * several),
        ]
      )
  head = ["run", "test accuracy", "validation accuracy", "steps", "time", "ended", "commit", *(["device"] * several)]
  return Section("runs", "Each run", table(head, cells))


def _provenance(sweep: SweepResult) -> Section:
  known = facts(
    [
      ("Sweep", sweep.sweep, ""),
      ("Commit" if len(sweep.commits) < 2 else "Commits", ", ".join(map(short_commit, sweep.commits)) or "unknown", ""),
      ("Seeds", ", ".join(map(str, sweep.seeds)), ""),
    ]
  )
  overrides = bullets(list(sweep.overrides)) if sweep.overrides else "<p>none</p>"
  commands = "".join(
    f"<p>{escape(row.name)}<br><code>{escape(shlex.join([row.config, *row.overrides]))}</code></p>"
    for row in sweep.candidates
  )
  versions = [[escape(name), f"<code>{escape(version)}</code>"] for name, version in sweep.versions.items()]
  parts = f"<h3>Configs</h3>{commands}"
  if versions:
    listed = table(["package", "version"], versions)
    parts += f'<figure class="narrow apart"><figcaption>Versions</figcaption>{listed}</figure>'
  return Section("provenance", "How it was made", f"{known}<h3>Overrides of all candidates</h3>{overrides}{parts}")
