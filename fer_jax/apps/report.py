"""Writes the report of a training run: one self-contained HTML page.

Usage:
  python -m fer_jax.apps.report --workdir=W [--compare=W2 ...] [--explain] [--features]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from fer_jax.apps.report_page.classes import Explanation
from fer_jax.apps.report_page.page import report_page
from fer_jax.runtime.errors import run
from fer_jax.runtime.files import local_path, write_text
from fer_jax.training.run_files import read_run


def write_report(
  workdir: Path, others: Sequence[Path] = (), explained: bool = False, with_features: bool = False
) -> Path:
  """Writes `workdir/report/index.html` atomically and returns its path.

  The page of an interrupted run shows what it logged, under a notice. In a run with several replicas, each replica that
  has started also gets a page in its own folder.

  Args:
    workdir: Workdir of a training run, with at least `config.json` and `metrics.jsonl`.
    others: Workdirs of runs to compare with; their validation accuracy is added to the curves.
    explained: Whether to load the trained network and add Grad-CAM heat maps to the worst mistakes.
    with_features: Whether to load the trained networks of this run and of those that it is compared with, and add
      feature maps of their first, middle and last layers.

  Raises:
    UserError: A folder is not the workdir of a run, a file in it is damaged, or the page cannot be written; or
      `explained` or `with_features` is set and a run has not finished or lacks files. All inputs are checked before the
      first page is written.
  """
  compared = [read_run(other) for other in others]
  whole = read_run(workdir)
  explanations: Mapping[Path, Explanation] = {}
  if explained:
    # Imported here because it imports JAX, which no other part of the page needs.
    from fer_jax.apps.report_page.explanations import explain

    explanations = explain(whole)
  features = None
  if with_features:
    from fer_jax.apps.report_page.feature_maps import draw_features

    features = draw_features(whole, compared)
  for replica in whole.replicas:
    write_text(_path(replica.workdir), report_page(replica, (), explanations.get(replica.workdir), whole))
  write_text(_path(workdir), report_page(whole, compared, explanations.get(workdir), features=features))
  return _path(workdir)


def _path(workdir: Path) -> Path:
  return workdir / "report" / "index.html"


def _renamed(value: str) -> str:
  raise argparse.ArgumentTypeError(f"the flag is now --compare={value}")


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line and prints the page's path."""
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.report", description="Write the report page of a training run."
  )
  parser.add_argument("--workdir", type=local_path, required=True, help="workdir of the run")
  parser.add_argument(
    "--compare",
    type=local_path,
    action="append",
    default=[],
    help="workdir of a run to compare with; may be repeated",
  )
  parser.add_argument("--beside", type=_renamed, help=argparse.SUPPRESS)
  parser.add_argument(
    "--explain",
    action="store_true",
    help="load the trained network and add Grad-CAM heat maps to the worst mistakes",
  )
  parser.add_argument(
    "--features",
    action="store_true",
    help="load the trained networks of this run and the compared ones and add feature maps of three layers",
  )
  given = parser.parse_args(arguments)
  print(write_report(given.workdir, given.compare, given.explain, given.features))


if __name__ == "__main__":
  run(main)
