"""Writes the report of a training run: one self-contained HTML page.

Usage:
  python -m fer_jax.apps.report --workdir=W [--beside=W2 ...] [--explain]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from fer_jax.apps.formatting import accuracy_estimate, percent
from fer_jax.apps.report_page.classes import Explanation, classes, mistakes, samples
from fer_jax.apps.report_page.curves import curves
from fer_jax.apps.report_page.markup import Section, document
from fer_jax.apps.report_page.provenance import provenance
from fer_jax.apps.report_page.summary import beside_table, headline, names_of, paper_table
from fer_jax.apps.report_page.trainings import trainings
from fer_jax.apps.report_page.views import views
from fer_jax.runtime.errors import run
from fer_jax.training.run_files import Run, mapping, read_run, write_text


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
  """Writes `workdir/report/index.html` atomically and returns its path.

  The page of an interrupted run shows what it logged, under a notice. In a run with several replicas, each replica that
  has started also gets a page in its own folder.

  Args:
    workdir: Workdir of a training run, with at least `config.json` and `metrics.jsonl`.
    beside: Workdirs of runs to compare with; their validation accuracy is added to the curves.
    explained: Whether to load the trained network and add Grad-CAM heat maps to the worst mistakes.

  Raises:
    UserError: A folder is not the workdir of a run, a file in it is damaged, or the page cannot be written; or
      `explained` is set and the run has not finished or lacks files. All inputs are checked before the first page is
      written.
  """
  others = [read_run(other) for other in beside]
  whole = read_run(workdir)
  explanations: Mapping[Path, Explanation] = {}
  if explained:
    # Imported here because it imports JAX, which no other part of the page needs.
    from fer_jax.apps.report_page.explanations import explain

    explanations = explain(whole)
  for replica in whole.replicas:
    write_text(_path(replica.workdir), _page(replica, (), explanations, whole))
  write_text(_path(workdir), _page(whole, list(zip(names_of(others), others, strict=True)), explanations))
  return _path(workdir)


def _path(workdir: Path) -> Path:
  return workdir / "report" / "index.html"


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line and prints the page's path."""
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
    help="load the trained network and add Grad-CAM heat maps to the worst mistakes",
  )
  given = parser.parse_args(arguments)
  print(write_report(given.workdir, given.beside, given.explain))


if __name__ == "__main__":
  run(main)
