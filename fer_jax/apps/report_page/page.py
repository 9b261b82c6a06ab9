"""The values that the template of the report page lays out."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fer_jax.apps.formatting import count, percent
from fer_jax.apps.pages.charts import common_phases, other_colour
from fer_jax.apps.pages.plots import draw
from fer_jax.apps.pages.render import render
from fer_jax.apps.report_page.classes import Explanation, mistakes, most_confused
from fer_jax.apps.report_page.curves import charts_of
from fer_jax.apps.report_page.headline import accuracy_notes, merit, notices
from fer_jax.apps.report_page.replicas import lead, replicas_of
from fer_jax.training.run_files import RunFiles

if TYPE_CHECKING:
  # Imports JAX, which only a page with feature maps needs.
  from fer_jax.apps.report_page.feature_maps import Features

_SECTIONS = {
  "paper": "Paper and measured",
  "compared": "Compared runs",
  "replicas": "Replicas",
  "views": "Views",
  "curves": "Curves",
  "classes": "Classes",
  "mistakes": "Worst mistakes",
  "features": "Feature maps",
  "samples": "Augmented samples",
  "provenance": "How it was made",
}


def report_page(
  run: RunFiles,
  others: Sequence[RunFiles],
  explanation: Explanation | None,
  whole: RunFiles | None = None,
  features: "Features | None" = None,
) -> str:
  """Returns the page of a run as self-contained HTML.

  Args:
    run: Run that the page is about.
    others: Runs to compare with.
    explanation: Heat maps of its worst mistakes; None shows the images alone.
    whole: Run that it is a replica of, to whose page the page links; None if it is not a replica.
    features: Feature maps of the run and the compared runs, in the same order; None leaves the section out.
  """
  result, predictions = run.result, run.predictions
  phases = common_phases(replica.metrics.train for replica in run.replicas_or_self)
  compared = list(zip(_names(others), others, strict=True))
  # One value for each section; a section without one is left out.
  contents = {
    "paper": run.paper.get("reported"),
    "compared": [("this run", run, "", ""), *_compared(run, compared)] if others else [],
    "replicas": replicas_of(run),
    "views": result and result.views,
    "curves": [(chart, draw(chart, phases)) for chart in charts_of(run, compared)],
    "classes": result and result.per_class,
    "mistakes": mistakes(run),
    "features": features and [*zip(["this run", *(name for name, _ in compared)], features.runs, strict=True)],
    "samples": [] if predictions is None or predictions.sample_image is None else [*predictions.sample_image],
    "provenance": True,
  }
  # "configs/hsic.py:demo model.blocks=2"
  name = " ".join([run.source, *(text.removeprefix("--config.") for text in run.config.get("overrides") or ())])
  events = [f"Step {count(event['step'])}: {event.get('text', '')}" for event in run.metrics.events]
  return render(
    "report.html",
    title=name if result is None else f"{name}: {percent(result.accuracy)}",
    name=name,
    sections={anchor: heading for anchor, heading in _SECTIONS.items() if contents[anchor]},
    run=run,
    result=result,
    whole=whole,
    warnings=notices(run),
    merit=merit(run),
    accuracy_notes=accuracy_notes(result),
    replicas_lead=lead(run),
    phases=phases,
    confused=most_confused(result) if result else [],
    explanation=explanation,
    feature_faces=features.faces if features else [],
    notes=[*(result.notes if result else ()), *events],
    config=json.dumps(run.settings, indent=2, ensure_ascii=False),
    **contents,
  )


def _names(runs: Sequence[RunFiles]) -> list[str]:
  """Returns a name for each run: the last part of its workdir, or the whole path if two runs share that part."""
  last = [run.name for run in runs]
  return [run.name if last.count(run.name) == 1 else str(run.workdir) for run in runs]


def _compared(run: RunFiles, others: Sequence[tuple[str, RunFiles]]) -> Iterator[tuple[str, RunFiles, str, str]]:
  """Yields the name, files and colour of each compared run, and the address of its page, or "" if it has none."""
  for position, (name, other) in enumerate(others):
    page = other.workdir.resolve() / "report" / "index.html"
    address = Path(os.path.relpath(page, run.workdir.resolve() / "report")).as_posix()
    yield name, other, other_colour(position), quote(address) if page.is_file() else ""
