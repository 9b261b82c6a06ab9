"""Writes the report of a training run: one page that needs nothing outside itself.

Usage:
  python -m fer_jax.apps.report --workdir=W [--beside=W2 ...] [--explain]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from fer_jax.apps.report_page.classes import Explanation, classes, mistakes, samples
from fer_jax.apps.report_page.curves import curves
from fer_jax.apps.report_page.markup import Section, document
from fer_jax.apps.report_page.provenance import provenance
from fer_jax.apps.report_page.quantities import accuracy_estimate, percent
from fer_jax.apps.report_page.run_files import Run, mapping, read_run, write_text
from fer_jax.apps.report_page.summary import beside_table, headline, names_of, paper_table
from fer_jax.apps.report_page.trainings import trainings
from fer_jax.apps.report_page.views import views
from fer_jax.errors import run


def _page(
  of: Run, beside: Sequence[tuple[str, Run]], explained: Mapping[Path, Explanation], whole: Run | None = None
) -> str:
  estimate = accuracy_estimate(mapping(of.result))
  title = of.source if estimate is None else f"{of.source}: {percent(estimate.value)}"
  parts = [
    paper_table(of),
    beside_table(of, beside),
    trainings(of),
    views(of),
    curves(of, beside),
    classes(of),
    mistakes(of, explained.get(of.workdir)),
    samples(of),
    provenance(of),
  ]
  sections: list[Section] = [part for part in parts if part is not None]
  return document(title, headline(of, whole), sections)


def write_report(workdir: Path, beside: Sequence[Path] = (), explained: bool = False) -> Path:
  """Writes `workdir/report/index.html`, whole or not at all, and returns its path.

  An interrupted run gets a page of what it logged, which says so. Of a run of several trainings, each that has begun
  gets a page of its own in its own folder, too.

  Args:
    workdir: a training run's workdir, with at least `config.json` and `metrics.jsonl`.
    beside: workdirs of runs to compare with; their validation accuracy joins the curves.
    explained: load what the run has learned, and show where it found its reasons for its worst mistakes.

  Raises:
    UserError: a workdir is none, a file in one is damaged, or the page cannot be written; the run is to be explained,
      and has not finished or is not there whole. No page is written before that is known.
  """
  others = [read_run(other) for other in beside]
  whole = read_run(workdir)
  explanations: Mapping[Path, Explanation] = {}
  if explained:
    from fer_jax.apps.report_page.explanations import explain  # JAX, which no other part of a page needs

    explanations = explain(whole)
  for replica in whole.replicas:
    write_text(_path(replica.workdir), _page(replica, (), explanations, whole))
  write_text(_path(workdir), _page(whole, list(zip(names_of(others), others, strict=True)), explanations))
  return _path(workdir)


def _path(workdir: Path) -> Path:
  return workdir / "report" / "index.html"


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line; prints the page's path."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.report", description="Write the report page of a training run."
  )
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of the run")
  parser.add_argument(
    "--beside",
    type=Path,
    action="append",
    default=[],
    help="workdir of a run to compare with; may be repeated",
  )
  parser.add_argument(
    "--explain",
    action="store_true",
    help="load what the run has learned, and show what speaks for its worst mistakes in each picture (Grad-CAM)",
  )
  given = parser.parse_args(arguments)
  print(write_report(given.workdir, given.beside, given.explain))


if __name__ == "__main__":
  run(main)
