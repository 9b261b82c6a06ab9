"""The page's table of averaged views."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from fer_jax.apps.report import write_report
from fer_jax.data.views import PROTOCOLS
from tests.apps.fake_run import write_folds, write_run
from tests.apps.report_test import Page

NAMES = {"single": "one image", "flip": "+ mirror image", "ten_crop": "ten crops"}
HEAD = ["views", "validation accuracy", "test accuracy", "test loss"]


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
  return tmp_path / "run"


def rewrite(workdir: Path, **changes: Any) -> None:
  path = workdir / "result.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def percent(share: float) -> str:
  return f"{100 * share:.2f} %"


def test_every_protocol_is_listed_and_what_validation_prefers_is_marked(workdir: Path) -> None:
  found = write_run(workdir, views=True)["views"]
  assert list(found) == list(PROTOCOLS)
  page = Page(write_report(workdir))
  start = page.rows.index(HEAD)
  assert page.rows[start + 1 : start + 4] == [
    [NAMES[each], percent(of["validation"]), percent(of["test"]), f"{of['loss']:.3f}"] for each, of in found.items()
  ]
  section = page.source[page.source.index('<section id="views">') :].partition("</section>")[0]
  (marked,) = section.split('<tr class="this">')[1:]
  assert "+ mirror image" in marked.partition("</tr>")[0]
  assert "at the top of the page is that of single images" in section
  assert "Choose a protocol by validation accuracy" in section
  assert "Means over the replicas" not in section
  assert '<a href="#views">Views</a>' in page.source


def test_of_equals_the_one_of_fewer_views_is_marked(workdir: Path) -> None:
  found = write_run(workdir, views=True)["views"]
  rewrite(workdir, views={each: {**of, "validation": 0.5} for each, of in found.items()})
  page = Page(write_report(workdir))
  assert 'class="this"><th scope="row"><span class="nowrap">one image' in page.source


def test_unseen_images_have_a_column_where_some_are_seen(workdir: Path) -> None:
  result = write_run(workdir, views=True)
  found = result["views"]
  found["flip"]["deduplicated"] = None
  rewrite(workdir, views=found, deduplicated={"accuracy": 0.4, "images": 3301, "seen": 288})
  page = Page(write_report(workdir))
  start = page.rows.index([*HEAD[:3], "unseen images only", HEAD[3]])
  column = [row[3] for row in page.rows[start + 1 : start + 4]]
  assert column == [percent(found["single"]["deduplicated"]), "no image", percent(found["ten_crop"]["deduplicated"])]


def test_of_several_trainings_the_test_accuracy_has_its_spread(workdir: Path) -> None:
  runs = write_folds(workdir, views=True)["runs"]
  page = Page(write_report(workdir))
  rows = {row[0]: row for row in page.rows if row}
  for protocol, name in NAMES.items():
    shares = [run["views"][protocol]["test"] for run in runs]
    assert rows[name][2] == f"{100 * fmean(shares):.2f} \N{PLUS-MINUS SIGN} {percent(stdev(shares))}"
  assert "Means over the replicas." in page.text


@pytest.mark.parametrize("older", [False, True])
def test_where_there_is_nothing_to_compare_there_is_no_section(workdir: Path, older: bool) -> None:
  result = write_run(workdir)
  assert result["views"] == {}
  if older:
    (workdir / "result.json").write_text(json.dumps({key: of for key, of in result.items() if key != "views"}))
  page = Page(write_report(workdir))
  assert 'id="views"' not in page.source
