"""The page of a sweep, parsed as a browser would."""

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_jax.apps.sweeps import figures
from fer_jax.config.sweep import Figure
from fer_jax.training.run_files import Metrics
from tests.apps.html_page import Page

from .conftest import Launch


def page_of(launch: Launch, variant: str = "") -> Page:
  return Page(launch.plan(variant=variant).folder / "index.html")


@pytest.fixture
def drawn(launch: Launch) -> Page:
  launch.run(variant="three")
  launch.run(variant="drawn")  # the same runs: only the page is drawn
  return page_of(launch, "drawn")


class TestFigures:
  def test_curves_have_a_line_for_each_candidate_and_a_band_over_seeds(self, drawn: Page) -> None:
    captions = drawn.captions()
    assert captions[:3] == ["Validation accuracy", "Training loss", "Training accuracy"]
    assert captions[3] == "Test accuracy"
    assert len(drawn.all("svg")) == 3
    first = re.findall(r"<svg.*?</svg>", drawn.source, flags=re.DOTALL)[0]
    assert first.count("opacity: 0.15") == 3
    assert "1 blocks, 2 blocks, 3 blocks" in first
    assert "Line: mean of the replicas; band: one standard deviation." in drawn.text

  def test_the_band_is_one_deviation_around_the_mean(self) -> None:
    def logged(*values: float) -> Metrics:
      return Metrics(evaluations={"validation": [{"step": s, "accuracy": a} for s, a in enumerate(values)]})

    # The second run has fewer steps than the first.
    chart = figures.curves(Figure("curves", "validation accuracy"), {"a": [logged(0.5, 0.6, 0.7), logged(0.7, 0.8)]})
    assert chart is not None
    (line,) = chart.lines
    ((steps, mean),) = line.pieces
    ((_, low, high),) = line.bands
    assert steps.tolist() == [0, 1, 2]
    np.testing.assert_allclose(mean, [0.6, 0.7, 0.7])
    np.testing.assert_allclose(mean - low, [0.02**0.5, 0.02**0.5, 0])
    np.testing.assert_allclose(high - mean, mean - low)

  def test_points_are_at_their_values(self, drawn: Page) -> None:
    rows = re.findall(r"<div><span>(\d) blocks</span>(.*?)</div>", drawn.source)
    assert [name for name, _ in rows] == ["1", "2", "3"]
    ticks = re.findall(r'style="--at: ([\d.]+)%">([\d.]+) %', drawn.source.split('class="axis"')[1])
    (zero, low), (hundred, high) = ((float(a), float(b)) for a, b in (ticks[0], ticks[-1]))
    assert (zero, hundred) == (0, 100)
    at = {kind: float(value) for kind, value in re.findall(r'class="(\w+)" style="--at: ([\d.]+)%', rows[1][1])}
    assert low + at["dot"] / 100 * (high - low) == pytest.approx(63, abs=0.01)
    assert low + at["print"] / 100 * (high - low) == pytest.approx(97, abs=0.01)
    assert low + at["span"] / 100 * (high - low) == pytest.approx(54.04, abs=0.02)
    assert 'class="print"' not in rows[0][1]  # the paper reports nothing for one block

  def test_training_loss_is_only_cross_entropy(self) -> None:
    records = [
      {"step": 1, "loss": -200.0},
      {"step": 2, "loss": -200.0, "accuracy": 0.5, "cross_entropy": 1.5},
      {"step": 3, "loss": 1.25, "accuracy": 0.5},
    ]
    steps, values = figures._curve(Metrics(train=records), "training loss")
    np.testing.assert_array_equal(steps, [2, 3])
    np.testing.assert_array_equal(values, [1.5, 1.25])


class TestLines:
  def test_lines_are_one_for_each_series_and_one_for_its_reported_values(self, launch: Launch) -> None:
    launch.run(variant="lines", blocks1="folds")
    page = page_of(launch, "lines")
    assert page.captions()[:2] == ["By depth", "Test accuracy"]
    svg = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)[0]
    assert 'aria-label="By depth over blocks: odd, even, even, paper"' in svg
    assert "blocks</text>" in svg
    assert re.findall(r">([123])</text>", svg) == ["1", "2", "3"]
    assert "Whiskers: 95 % interval." in page.text
    assert "With one seed" not in page.text

  def test_lines_pass_through_the_values_of_the_candidates(self) -> None:
    rows: list[Any] = [
      SimpleNamespace(
        value=n,
        series=series,
        measured={"test accuracy": n / 100},
        reported={"test accuracy": 0.9} if n == 20 else {},
        interval_95={"test accuracy": (0.1, 0.3)} if series == "deep" else {},
      )
      for n, series in ((74, "plain"), (20, "deep"), (20, "plain"))
    ]
    chart = figures.lines(Figure("lines", "test accuracy"), rows, "layers")
    assert chart is not None
    lines = {line.name: line for line in chart.lines}
    assert list(lines) == ["deep", "deep, paper", "plain", "plain, paper"]
    assert chart.at == [20, 74]
    ((values, shares),) = lines["plain"].pieces
    np.testing.assert_allclose(values, [20, 74], atol=0.5)  # next to one another, so that whiskers do not overlap
    assert shares.tolist() == [0.20, 0.74]
    assert lines["plain, paper"].pieces[0][0].tolist() == [20]
    ((x, *ends),) = lines["deep"].whiskers
    assert (x, ends) == (lines["deep"].pieces[0][0][0], [0.1, 0.3])
    assert x < values[0]
    assert lines["plain"].colour == lines["plain, paper"].colour != lines["deep"].colour


def test_recall_by_class_is_next_to_the_reported_values(launch: Launch) -> None:
  launch.run(variant="lines", blocks2="folds")
  page = page_of(launch, "lines")
  head = next(row for row in page.rows if row[0] == "recall")
  assert head[1:] == ["paper: 2 blocks", "2 blocks (95 % interval)", "3 blocks (95 % interval)"]
  happy = next(row for row in page.rows if row[0] == "happy")
  assert happy[1:3] == ["90.00 %", "80.00 % (71.12 \N{EN DASH} 86.66 %)"]
  assert happy[3].startswith("60.00 % (")
  assert next(row for row in page.rows if row[0] == "sad")[1] == ""


class TestTable:
  def test_measured_values_are_next_to_reported_ones(self, launch: Launch) -> None:
    launch.run(variant="three")
    page = page_of(launch, "three")
    head = next(row for row in page.rows if row[0] == "blocks")
    row = dict(zip(head, next(row for row in page.rows if row[0] == "2 blocks"), strict=True))
    assert row["test accuracy (95 % interval)"] == "63.00 % (54.04 \N{EN DASH} 71.96 %)"
    assert row["standard deviation"] == "3.61 %"
    assert row["paper: test accuracy"] == "97.00 %"
    assert (row["steps to converge"], row["paper: steps to converge"]) == ("20", "2,500")
    assert (row["parameters"], row["steps"], row["seeds"]) == ("1,234", "20", "3")
    other = dict(zip(head, next(row for row in page.rows if row[0] == "1 blocks"), strict=True))
    assert other["paper: test accuracy"] == ""

  def test_folds_are_described(self, launch: Launch) -> None:
    launch.run(blocks1="folds")
    page = page_of(launch)
    head = next(row for row in page.rows if row[0] == "blocks")
    row, other = (
      dict(zip(head, next(row for row in page.rows if row[0] == f"{n} blocks"), strict=True)) for n in (1, 2)
    )
    assert row["standard deviation"] == "3.61 %"
    assert (row["replicas"], other["replicas"]) == ("3 folds by subjects", "1")
    assert "Student t, over 3 folds by subjects" in page.text
    assert "the interval over folds is too narrow" in page.text

  def test_the_chosen_candidate_is_marked(self, launch: Launch) -> None:
    launch.run(variant="three")
    launch.measure("three", 2, (0.8, 0.8, 0.81), test=0.5)
    launch.run(variant="choose")  # the same runs
    page = page_of(launch, "choose")
    names = [row[0] for row in page.rows]
    assert names.count("2 blocks (chosen)") == 1
    assert "1 blocks (chosen)" not in names
    assert "Chosen by validation accuracy, mean over the seeds: 2 blocks. Its test accuracy, 50.00 %, is" in page.text
    assert "To choose among the candidates" not in page.text

  def test_choices_of_single_folds_are_described(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="folds", blocks2="folds", demo="folds")
    page = page_of(launch, "choose")
    assert "Chosen by validation accuracy, mean over the folds and seeds: 1 blocks." in page.text
    # Nine folds of 60, 62 and 67 %, with the same validation accuracies for all candidates: the first is chosen.
    assert "own validation part (1 blocks 9 \N{MULTIPLICATION SIGN}), test accuracy is 63.00 % (" in page.text

  def test_no_candidate_is_chosen_before_all_have_finished(self, launch: Launch) -> None:
    launch.run(variant="choose", blocks1="fail", blocks2="folds")
    page = page_of(launch, "choose")
    expected = (
      "One candidate will be chosen, by validation accuracy, mean over the folds and seeds, when all have finished."
    )
    assert expected in page.text
    assert "(chosen)" not in page.text

  def test_every_run_is_listed_and_linked(self, launch: Launch) -> None:
    launch.run()
    workdir = launch.plan().runs[0].workdir
    (workdir / "report").mkdir()
    (workdir / "report" / "index.html").touch()
    launch.run()
    page = page_of(launch)
    assert [row[0] for row in page.rows].count("1 blocks, seed 0") == 1
    links = [a["href"] for a in page.all("a") if not str(a["href"]).startswith("#")]
    assert len(links) == 1
    assert (launch.plan().folder / str(links[0]).replace("%3D", "=")).resolve() == workdir / "report" / "index.html"


def test_provenance(launch: Launch) -> None:
  launch.run(variant="three")
  page = page_of(launch, "three")
  for text in ("0123456789ab"[:9], "0, 1, 2", "synthetic_faces", "0.10.2", "9 of 9 finished", "A. Author 2023"):
    assert text in page.text
  assert "configs/hsic.py:demo --config.model.blocks=2" in page.text
  assert "Built-in faces are for trials" in page.text
  assert "have different" not in page.text
  assert "With one seed" not in page.text


def test_text_is_escaped_and_the_page_is_self_contained(drawn: Page) -> None:
  assert "Blocks & <seeds>" in drawn.text
  assert "More is <b>better</b>." in drawn.text
  assert drawn.all("b") == []
  assert not drawn.all("script")
  for _, attributes in drawn.elements:
    assert not str(attributes.get("src") or "").startswith("http")
  assert not re.search(r"url\((?!#)|@import", drawn.source)


def test_warnings_are_shown_first(launch: Launch) -> None:
  launch.run(blocks1="fail", blocks2="SIGTERM")
  page = page_of(launch)
  assert "1 blocks failed (seed 0: training diverged: loss is nan)" in page.text
  assert "Not yet finished: 2 blocks, 3 blocks." in page.text
  assert "With one seed, an interval is over the test images" in page.text
  assert ["1 blocks", "0 of 1, failed"] in [[row[0], row[-1]] for row in page.rows]
  assert json.loads((launch.plan().folder / "sweep.json").read_text())["status"] == "failed"
