"""The page of a sweep: figures, members compared with the paper, runs, and provenance."""

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from fer_jax.apps.formatting import NOT_MEASURED, count, duration, percent, percent_range, short_commit
from fer_jax.apps.report_page.markup import Section, bullets, document, facts, said, table
from fer_jax.apps.report_page.trainings import SHARED
from fer_jax.apps.sweeps.figures import curves, lines, points, scatter
from fer_jax.apps.sweeps.gather import CONVERGED, LAST_BATCHES, Training
from fer_jax.apps.sweeps.table import class_table, member_table, quantities_of
from fer_jax.config.sweep import Figure
from fer_jax.training.run_files import Metrics, Record

_BUILT_IN = {"synthetic_faces", "drawn_kdef_ck_plus", "drawn_jaffe"}


def sweep_page(content: Record, trainings: Sequence[Training]) -> str:
  """Returns the self-contained HTML page of a sweep, with relative links to the reports of its runs.

  Args:
    content: Content of sweep.json, next to which the page is written.
    trainings: Runs that the content was gathered from.
  """
  parts = [
    _figures(content, trainings),
    _members(content),
    _classes(content),
    _runs(content, trainings),
    _provenance(content),
  ]
  return document(content["title"], _header(content), [part for part in parts if part is not None])


def _header(content: Record) -> str:
  rows = content["rows"]
  runs = [run for row in rows for run in row["runs"]]
  finished = sum(run["status"] == "finished" for run in runs)
  listed = facts(
    [
      ("Runs", f"{finished} of {len(runs)} finished", f"of {len(rows)} members"),
      ("Seeds", ", ".join(map(str, content["seeds"])), "of each member"),
      ("Steps", " \N{EN DASH} ".join(_ends(row["steps"] for row in rows)), "of each run"),
      ("Time", duration(content["seconds"]) if finished else NOT_MEASURED, "all runs together"),
      ("Dataset", ", ".join(content["datasets"]) or "not stated", ""),
      ("Device", "; ".join(content["devices"]) or "not stated", ""),
    ]
  )
  warned = "".join(f'<p class="notice" role="note">{escape(text)}</p>' for text in notices(content))
  return (
    f'<header><div class="eyebrow">{escape(content["sweep"])}</div><h1>{escape(content["title"])}</h1>'
    f'<div class="muted">{escape(content["citation"])}</div>{warned}'
    f'<div class="headline"><div><h3>The paper\'s finding</h3><p>{escape(content["claim"])}</p></div>'
    f"{listed}</div></header>"
  )


def _ends(values: Iterable[float | None]) -> list[str]:
  """Returns the smallest and the largest of the values as text; a single text if they are equal."""
  known = sorted({value for value in values if value is not None})
  return [count(value) for value in dict.fromkeys([known[0], known[-1]])] if known else [NOT_MEASURED]


def notices(content: Record) -> list[str]:
  """Returns warnings that limit what the page shows, as plain sentences."""
  rows, found = content["rows"], []
  for row in rows:
    if row["status"] == "failed":
      found.append(f"{row['name']} failed ({row['error']}); the page shows only its finished runs.")
  waiting = [row["name"] for row in rows if row["status"] in ("unfinished", "not yet run")]
  if waiting:
    found.append(f"Not yet finished: {', '.join(waiting)}. Run the same command again to continue.")
  if _BUILT_IN & set(content["datasets"]):
    found.append("Built-in faces are for trials and tests: the results on this page do not apply to real faces.")
  folded = any(run["trainings"] for row in rows for run in row["runs"])
  if not folded and any(len(row["seeds"]) == 1 for row in rows):
    found.append(
      "With one seed, an interval is over the test images; it does not include the variation between training runs."
    )
  for what in ("devices", "commits"):
    if len(content[what]) > 1:
      found.append(f"The runs have different {what}; see the table of runs.")
  return found


def _figures(content: Record, trainings: Sequence[Training]) -> Section | None:
  logged: dict[str, list[Metrics]] = {row["name"]: [] for row in content["rows"]}
  for training in trainings:
    logged[training.run.member] += training.logs
  drawn = []
  for figure in (Figure(**each) for each in content["figures"]):
    rows = [row for row in content["rows"] if row["name"] in (figure.members or logged)]
    if figure.kind == "curves":
      drawn.append(curves(figure, {row["name"]: logged[row["name"]] for row in rows}))
    elif figure.kind == "points":
      drawn.append(points(figure, rows))
    elif figure.kind == "scatter":
      drawn.append(scatter(figure, rows))
    elif figure.kind == "lines":
      drawn.append(lines(figure, rows, content["swept"]))
  drawn = [each for each in drawn if each]
  return Section("figures", "Figures", f'<div class="columns">{"".join(drawn)}</div>') if drawn else None


def _classes(content: Record) -> Section | None:
  parts = []
  for figure in (Figure(**each) for each in content["figures"] if each["kind"] == "classes"):
    head, rows = class_table(content, figure.members)
    if rows:
      cells = [[escape(name), *map(said, others)] for name, *others in rows]
      note = f'<p class="lead">{escape(figure.note)}</p>' if figure.note else ""
      parts.append(f"{note}{table(head, cells)}")
  return Section("classes", "Classes", f'<div class="members">{"".join(parts)}</div>') if parts else None


def _members(content: Record) -> Section:
  head, rows = member_table(content)
  cells = [[f'<span class="member">{escape(name)}</span>', *map(said, others)] for name, *others in rows]
  notes = [
    "Each run is tested once, with the parameters that were best on validation.",
    choice(content) if content["choose"] else "To choose among the members, use validation accuracy.",
  ]
  intervals = dict.fromkeys(row["interval"] for row in content["rows"] if row["interval"])
  if intervals:
    notes.append(f"95 % interval: {'; '.join(intervals)}.")
  if any("folds" in interval for interval in intervals):
    notes.append(SHARED)
  named = quantities_of(content)
  if "training accuracy" in named:
    notes.append(f"Training accuracy: mean over the last {LAST_BATCHES} logged batches.")
  if "steps to converge" in named:
    notes.append(
      f"Steps to converge: first step at which validation accuracy is at least {percent(CONVERGED, 0)} of its maximum "
      "in the run."
    )
  notes += [f"{name.capitalize()}: {content['timings']}, on {content['timed_on']}." for name in content["timed"]]
  if "seconds a step" not in content["timed"]:
    notes.append("Seconds a step: medians of the runs.")
  lead = "".join(f'<p class="lead">{escape(note)}</p>' for note in notes)
  return Section(
    "members", "Paper and measured", f'<div class="members">{table(head, cells)}</div><div class="apart">{lead}</div>'
  )


def choice(content: Record) -> str:
  """Returns sentences on which member is chosen and by what; with folds, also on a separate choice in each fold."""
  ground = f"{content['choose']}, mean over the {_spread_over(content['rows'])}"
  if content["chosen"] is None:
    return f"One member will be chosen, by {ground}, when all have finished."
  chosen = next(row for row in content["rows"] if row["name"] == content["chosen"])
  said = (
    f"Chosen by {ground}: {chosen['name']}. Its test accuracy, {percent(chosen['measured']['test accuracy'])}, is "
    "unbiased by the choice, which used no test accuracy; the highest value of the column would be too optimistic."
  )
  own = content["chosen_by_fold"]
  if own is None:
    return said
  interval = f" ({percent_range(*own['interval_95'])})" if own["interval_95"] else ""
  picks = ", ".join(f"{name} {count(folds)} \N{MULTIPLICATION SIGN}" for name, folds in own["picks"].items())
  return (
    f"{said} However, the validation images of one fold are test images of others. With a separate choice in each "
    "fold, by its own validation part "
    f"({picks}), test accuracy is {percent(own['test accuracy'])}{interval}."
  )


def _spread_over(rows: Sequence[Record]) -> str:
  """Returns what the runs of a member differ in: "folds", "seeds", "folds and seeds", or "runs"."""
  trainings = {run["trainings"] or "" for row in rows for run in row["runs"]}
  folds = any("folds" in of for of in trainings)
  seeds = any(len(row["seeds"]) > 1 for row in rows) or any("seeds" in of for of in trainings)
  return " and ".join(["folds"] * folds + ["seeds"] * seeds) or "runs"


def _runs(content: Record, trainings: Sequence[Training]) -> Section:
  reports = {t.run.workdir.name for t in trainings if (t.run.workdir / "report" / "index.html").is_file()}
  several = len(content["devices"]) > 1
  cells = []
  for row in content["rows"]:
    for run in row["runs"]:
      name = f"{escape(row['name'])}, seed {run['seed']}"
      if run["run"] in reports:
        name = f'<a href="../runs/{quote(run["run"])}/report/index.html">{name}</a>'
      ended = run["stopped"] if run["status"] == "finished" else run["status"]
      cells.append(
        [
          f'<span class="nowrap">{name}</span>',
          said(percent(run["accuracy"])),
          said(percent(run["validation_accuracy"])),
          said(count(run["steps"])),
          said(duration(run["seconds"])),
          escape(str(ended)),
          f"<code>{escape(short_commit(run['commit']))}</code>" if run["commit"] else "",
          *([escape(run["device"] or "")] * several),
        ]
      )
  head = ["run", "test accuracy", "validation accuracy", "steps", "time", "ended", "commit", *(["device"] * several)]
  return Section("runs", "Each run", table(head, cells))


def _provenance(content: Record) -> Section:
  commits = ", ".join(map(short_commit, content["commits"])) or "unknown"
  known = facts(
    [
      ("Sweep", content["sweep"], ""),
      ("Commit" if len(content["commits"]) < 2 else "Commits", commits, ""),
      ("Seeds", ", ".join(map(str, content["seeds"])), ""),
    ]
  )
  overrides = bullets(content["overrides"]) if content["overrides"] else "<p>none</p>"
  commands = "".join(
    f"<p>{escape(row['name'])}<br><code>{escape(shlex.join([row['config'], *row['overrides']]))}</code></p>"
    for row in content["rows"]
  )
  versions = [[escape(name), f"<code>{escape(version)}</code>"] for name, version in content["versions"].items()]
  parts = f"<h3>Configs</h3>{commands}"
  if versions:
    listed = table(["package", "version"], versions)
    parts += f'<figure class="narrow apart"><figcaption>Versions</figcaption>{listed}</figure>'
  return Section("provenance", "How it was made", f"{known}<h3>Overrides of all members</h3>{overrides}{parts}")
