"""Tests of the report page's table of test-time augmentation."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from fer_jax.apps.report import write_report
from fer_jax.data.views import PROTOCOLS
from tests.apps.fake_run import write_folds, write_run
from tests.apps.html_page import Page

NAMES = {"single": "one image", "flip": "+ mirror image", "ten_crop": "ten crops"}
HEAD = ["views", "validation accuracy", "test accuracy", "test loss"]


def update_result(workdir: Path, **changes: Any) -> None:
  """Replaces fields of a run's result file."""
  path = workdir / "result.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def percent(share: float) -> str:
  return f"{100 * share:.2f} %"


def test_lists_all_protocols_and_marks_the_best_on_validation(workdir: Path) -> None:
  views = write_run(workdir, views=True)["views"]
  assert list(views) == list(PROTOCOLS)
  page = Page(write_report(workdir))
  start = page.rows.index(HEAD)
  assert page.rows[start + 1 : start + 4] == [
    [NAMES[protocol], percent(view["validation"]), percent(view["test"]), f"{view['loss']:.3f}"]
    for protocol, view in views.items()
  ]
  section = page.source[page.source.index('<section id="views">') :].partition("</section>")[0]
  (marked_row,) = section.split('<tr class="this">')[1:]
  assert "+ mirror image" in marked_row.partition("</tr>")[0]
  assert "at the top of the page is that of single images" in section
  assert "Choose a protocol by validation accuracy" in section
  assert "Means over the replicas" not in section
  assert '<a href="#views">Views</a>' in page.source


def test_marks_the_protocol_with_fewest_views_among_equals(workdir: Path) -> None:
  views = write_run(workdir, views=True)["views"]
  update_result(workdir, views={protocol: {**view, "validation": 0.5} for protocol, view in views.items()})
  page = Page(write_report(workdir))
  assert 'class="this"><th scope="row"><span class="nowrap">one image' in page.source


def test_has_a_column_for_unseen_images_if_some_also_appear_in_training(workdir: Path) -> None:
  result = write_run(workdir, views=True)
  views = result["views"]
  views["flip"]["deduplicated"] = None
  update_result(workdir, views=views, deduplicated={"accuracy": 0.4, "images": 3301, "seen": 288})
  page = Page(write_report(workdir))
  start = page.rows.index([*HEAD[:3], "unseen images only", HEAD[3]])
  column = [row[3] for row in page.rows[start + 1 : start + 4]]
  assert column == [percent(views["single"]["deduplicated"]), "no image", percent(views["ten_crop"]["deduplicated"])]


def test_test_accuracy_of_several_replicas_has_a_standard_deviation(workdir: Path) -> None:
  runs = write_folds(workdir, views=True)["runs"]
  page = Page(write_report(workdir))
  rows = {row[0]: row for row in page.rows if row}
  for protocol, name in NAMES.items():
    shares = [run["views"][protocol]["test"] for run in runs]
    assert rows[name][2] == f"{100 * fmean(shares):.2f} \N{PLUS-MINUS SIGN} {percent(stdev(shares))}"
  assert "Means over the replicas." in page.text


@pytest.mark.parametrize("absent", [False, True])
def test_run_without_other_protocols_has_no_section(workdir: Path, absent: bool) -> None:
  result = write_run(workdir)
  assert result["views"] == {}
  if absent:
    (workdir / "result.json").write_text(json.dumps({key: value for key, value in result.items() if key != "views"}))
  page = Page(write_report(workdir))
  assert 'id="views"' not in page.source
