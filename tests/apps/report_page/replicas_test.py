"""Tests of the report page of a run with several replicas, and of the page of each replica."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_jax.apps.report import write_report
from tests.apps.fake_run import NAMES, write_folds, write_run
from tests.apps.html_page import Page


@dataclass(frozen=True)
class Folds:
  """Workdir, result and page of a run with three folds."""

  workdir: Path
  result: dict[str, Any]
  page: Page


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Folds:
  """Finished run that is shared by all tests, which must not change it."""
  workdir = tmp_path_factory.mktemp("folds") / "run"
  result = write_folds(workdir)
  return Folds(workdir, result, Page(write_report(workdir)))


def test_headline_shows_mean_interval_and_pooled_accuracy(folds: Folds) -> None:
  result = folds.result
  page = folds.page
  low, high = (100 * end for end in result["interval_95"])
  assert f"95 % interval {low:.2f} \N{EN DASH} {high:.2f} %" in page.text
  assert f"mean of 3 folds by subjects, standard deviation {100 * result['std']:.2f} %" in page.text
  pooled = np.trace(result["confusion_matrix"]) / (3 * 3589)
  assert f"pooled over the 10,767 test images of all folds: {100 * pooled:.2f} %" in page.text
  assert "without the 767 test images that also appear in training: a mean of 50.00 % over 10,000" in page.text
  assert "no person is in both training and test" in page.text
  for text in ("loop, 2 at a time", "as configured", "3, split with seed 4", "12 constant images kept"):
    assert text in page.text


def test_each_replica_has_a_row_and_a_page_that_link_to_each_other(folds: Folds) -> None:
  result = folds.result
  page, path = folds.page, folds.workdir / "report" / "index.html"
  rows = {row[0]: row for row in page.rows}
  for number, run in enumerate(result["runs"]):
    shares = [f"{100 * run[key]:.2f} %" for key in ("accuracy", "validation_accuracy")]
    assert rows[f"fold {number}"] == [
      f"fold {number}",
      str(number),
      *shares,
      "1,900",
      "2,000",
      "3,589",
      "6 min 03 s",
      "finished",
    ]
  last = rows["mean \N{PLUS-MINUS SIGN} standard deviation"]
  assert last[2] == f"{100 * result['accuracy']:.2f} \N{PLUS-MINUS SIGN} {100 * result['std']:.2f} %"
  for link in (link["href"] or "" for link in page.all("a") if "/replicas/" in (link["href"] or "")):
    own = Page(path.parent / link)
    assert "Test splitfold" in own.text
    assert ((path.parent / link).parent / str(own.all("a")[0]["href"])).resolve() == path.resolve()
  assert sum("/replicas/" in (link["href"] or "") for link in page.all("a")) == 3


def test_page_of_a_replica_equals_that_of_a_single_run(folds: Folds, tmp_path: Path) -> None:
  single = tmp_path / "fold_1"
  shutil.copytree(folds.workdir / "replicas" / "fold_1", single, ignore=shutil.ignore_patterns("report"))
  link = re.escape('<a href="../../../report/index.html">run</a> / ')
  replica_page = (folds.workdir / "replicas" / "fold_1" / "report" / "index.html").read_text()
  assert re.sub(link, "", replica_page) == write_report(single).read_text()


def test_curves_show_each_replica_and_their_mean(folds: Folds) -> None:
  page = folds.page
  assert {"Validation accuracy", "Validation loss", "Training accuracy"} <= set(page.captions())
  first = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)[0]
  assert len(re.findall(r"<path[^>]*stroke-opacity: 0.55", first)) == 3
  assert "each of 3 replicas" in page.text
  assert "mean of the replicas" in page.text


def test_metrics_are_means_over_the_replicas(folds: Folds) -> None:
  mean = folds.result["metrics"]
  shown = folds.page.facts("classes")
  # The calibration error of several replicas is not at the top of the page.
  for name, key in (("Balanced accuracy", "balanced_accuracy"), ("Calibration error", "expected_calibration_error")):
    assert shown[name] == f"{100 * mean[key]:.2f} %<small>mean of the replicas</small>"


def test_confusion_matrix_and_mistakes_are_pooled(folds: Folds) -> None:
  result = folds.result
  page = folds.page
  row = result["confusion_matrix"][0]
  assert [NAMES[0], *(f"{number}{100 * number / sum(row):.0f} %" for number in row)] in page.rows
  assert "Sum over 3 replicas." in page.text
  saved = np.load(folds.workdir / "predictions.npz")
  assert f"row {saved['index'][saved['worst'][0]]}, fold 2" in page.text


def test_unfinished_run_shows_its_progress_and_the_mean_so_far(workdir: Path) -> None:
  write_folds(workdir, finished=1)
  page = Page(write_report(workdir))
  own = json.loads((workdir / "replicas" / "fold_0" / "result.json").read_text())
  assert "1 of its 3 replicas have finished, fold 1 is at step 2,000." in page.text
  assert "Mean test accuracy so far" in page.text
  assert f"{100 * own['accuracy']:.2f} %" in page.text
  assert ["fold 1", "1", "not yet measured"] in [row[:3] for row in page.rows]
  assert (workdir / "replicas" / "fold_1" / "report" / "index.html").is_file()


def test_fold_whose_test_images_all_appear_in_training_has_no_deduplicated_accuracy(workdir: Path) -> None:
  write_folds(workdir)
  result = json.loads((workdir / "result.json").read_text())
  result["runs"][1]["deduplicated"] = {"accuracy": None, "images": 0, "seen": 40}
  (workdir / "result.json").write_text(json.dumps(result))
  rows = Page(write_report(workdir)).rows
  assert [row[3] == "no image" for row in rows if row[0].startswith("fold")] == [False, True, False]


def test_run_without_finished_replicas_has_a_page_without_charts(workdir: Path) -> None:
  write_folds(workdir, finished=0)
  shutil.rmtree(workdir / "replicas")
  page = Page(write_report(workdir))
  assert "0 of its 3 replicas have finished." in page.text
  assert page.all("svg") == []


def test_compared_run_with_replicas_is_drawn_as_its_mean(workdir: Path, tmp_path: Path) -> None:
  write_run(workdir)
  write_folds(tmp_path / "folds")
  page = Page(write_report(workdir, [tmp_path / "folds"]))
  assert "validation, folds" in page.text
  assert re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)[0].count("stroke-dasharray: 5.6,2.8") == 1


def test_reports_the_fold_and_step_of_a_loss_that_is_not_finite(workdir: Path) -> None:
  write_folds(workdir)
  with (workdir / "replicas" / "fold_2" / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 1510, "phase": "classifier", "loss": NaN}\nx\n')
  page = Page(write_report(workdir))
  assert "loss of fold 2 is not a finite number at step 1,510" in page.text
  assert "1 line of fold_2/metrics.jsonl could not be read" in page.text
