"""The report page: read back as a browser would, with html.parser."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.apps.report import main, write_report
from fer_jax.runtime.errors import UserError
from fer_jax.training.intervals import wilson_interval

from .fake_run import NAMES, TRICKY, write_folds, write_run

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
  """Collects a page's elements, its text, and checks that they nest."""

  def __init__(self, path: Path) -> None:
    super().__init__(convert_charrefs=True)
    self.source = path.read_text(encoding="utf-8")
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.open: list[str] = []
    self.text = ""
    self.data: list[tuple[str, str]] = []  # the value of each <data> element, and what is shown for it
    self.rows: list[list[str]] = []
    self.feed(self.source)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag == "data":
      self.data.append((dict(attrs)["value"] or "", ""))
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag: str) -> None:
    assert self.open.pop() == tag

  def handle_data(self, data: str) -> None:
    if "style" in self.open:
      return
    self.text += data
    if "data" in self.open:
      self.data[-1] = (self.data[-1][0], data)
    if "td" in self.open or "th" in self.open:
      self.rows[-1][-1] += data

  def all(self, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in self.elements if name == tag]

  def captions(self) -> list[str]:
    return re.findall(r"<figcaption>([^<]*)", self.source)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
  return tmp_path / "run"


def test_page_refers_to_nothing_outside_itself(workdir: Path, tmp_path: Path) -> None:
  write_run(workdir)
  write_run(tmp_path / "other", best=0.7)
  page = Page(write_report(workdir, [tmp_path / "other"]))
  for tag, attributes in page.elements:
    assert tag not in ("script", "link", "iframe", "object", "embed")
    for name, value in attributes.items():
      assert name not in ("srcset", "xmlns", "xmlns:xlink")
      if name in ("src", "href"):
        assert (value or "").startswith(("data:image/png;base64,", "#"))
      assert "url(http" not in (value or "")
  assert "@import" not in page.source
  assert not re.search(r"url\((?!#)", page.source)


def test_references_within_the_page_are_met_once(workdir: Path) -> None:
  write_run(workdir)
  page = Page(write_report(workdir))
  anchors = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
  wanted = {attributes["href"] for tag in ("a", "use") for attributes in page.all(tag) if attributes.get("href")}
  wanted |= set(re.findall(r"url\((#[^)]*)\)", page.source))
  assert wanted
  assert wanted <= {f"#{anchor}" for anchor in anchors}
  assert len(anchors) == len(set(anchors))


def test_page_shows_headline_and_every_figure(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  right = np.trace(result["confusion_matrix"])
  low, high = wilson_interval(int(right), 3589)
  assert f"{100 * right / 3589:.2f} %" in page.text
  assert f"{100 * low:.2f} \N{EN DASH} {100 * high:.2f} %" in page.text
  assert "selected: step 1,900" in page.text
  for text in (
    "cpu: AMD EPYC x 2",
    "6 min 03 s",
    "finished",
    "e3ed27b0c",
    "1,132,007",
    "resumed from step 200",
  ):
    assert text in page.text
  charts = {
    "Accuracy",
    "Loss",
    "HSIC with the label, by layer",
    "HSIC with the input, by layer",
    "Learning rate",
    "Images a second",
  }
  assert charts <= set(page.captions())
  assert len(page.all("svg")) == len(charts)
  assert "block3_conv4" in page.text
  assert page.source.count("bottleneck</text>") == len(charts)  # each chart names the phase that it shades


def test_charts_take_their_colours_from_the_page(workdir: Path) -> None:
  write_run(workdir)
  page = Page(write_report(workdir))
  for svg in re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL):
    assert "var(--" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_per_class_figures_and_confusion_counts_equal_the_result(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  exact = [[row["precision"], row["recall"], row["f1"], row["support"]] for row in result["per_class"]]
  assert np.reshape([float(value) for value, _ in page.data], (7, 4)).tolist() == exact
  assert [shown for _, shown in page.data[:3]] == [f"{value:.3f}" for value in exact[0][:3]]
  row = next(row for row in page.rows if row[0] == NAMES[1] and len(row) == 5)
  assert [cell.partition("paper ")[2] for cell in row[1:]] == ["0.934", "0.864", "0.898", ""]
  assert page.text.count("paper 0.") == 3
  for name, counts in zip(NAMES, result["confusion_matrix"], strict=True):
    cells = [f"{number}{100 * number / sum(counts):.0f} %" for number in counts]
    assert [name, *cells] in page.rows


def facts(page: Page, section: str) -> dict[str, str]:
  """The names and values of the facts in a section."""
  inside = page.source.split(f'<section id="{section}">')[1].partition("</section>")[0]
  return dict(re.findall(r"<dt>([^<]*)</dt><dd>(.*?)</dd>", inside))


def test_metrics_over_all_classes_are_shown(workdir: Path) -> None:
  metrics = write_run(workdir)["metrics"]
  assert facts(Page(write_report(workdir)), "classes") == {
    "Balanced accuracy": f"{100 * metrics['balanced_accuracy']:.2f} %",
    "Macro F1": f"{metrics['macro_f1']:.4g}",
    "Cohen&#39;s kappa": "0.4321",
  }


def test_the_result_of_an_earlier_version_has_no_metrics(workdir: Path) -> None:
  result = write_run(workdir)
  del result["metrics"]
  (workdir / "result.json").write_text(json.dumps(result))
  assert facts(Page(write_report(workdir)), "classes") == {}


def test_gallery_holds_the_pictures_and_says_what_was_mistaken(workdir: Path) -> None:
  write_run(workdir, channels=3)
  saved = np.load(workdir / "predictions.npz")
  colour = np.zeros_like(saved["worst_image"])
  colour[..., 0] = 200  # red
  np.savez(workdir / "predictions.npz", **{**saved, "worst_image": colour})
  page = Page(write_report(workdir))
  images = page.all("img")
  assert len(images) == 24 + 16
  png = base64.b64decode((images[0]["src"] or "").split(",", 1)[1])
  assert np.array(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))[0, 0].tolist() == [0, 0, 200]
  worst = saved["worst"][0]
  probability = saved["probability"][worst]
  said = f"{NAMES[saved['label'][worst]]} \N{RIGHTWARDS ARROW} {NAMES[probability.argmax()]}"
  assert images[0]["alt"] == said
  assert f"{said}{100 * probability.max():.1f} %" in page.text
  assert f"row {saved['index'][worst]}" in page.text


def test_text_from_outside_is_escaped(workdir: Path, tmp_path: Path) -> None:
  write_run(workdir, names=[*NAMES[:4], TRICKY, *NAMES[5:]])
  config = json.loads((workdir / "config.json").read_text())
  config["config"]["paper"]["note"] = config["source"] = TRICKY
  config["overrides"] = [f"--config.name={TRICKY}"]
  (workdir / "config.json").write_text(json.dumps(config))
  records = [
    {"kind": "event", "step": 3, "text": f"event {TRICKY}"},
    *({"kind": "train", "step": step, "phase": f"$phase$ {TRICKY}", "loss": 1.0} for step in (2010, 6000)),
    {"kind": "train", "step": 6010, "phase": "", '<i>"&/<i>"&': 1.0},
  ]
  with (workdir / "metrics.jsonl").open("a") as file:
    file.writelines(json.dumps(record) + "\n" for record in records)
  twin = tmp_path / '<b>twin & "'
  write_run(twin)
  write_report(twin)
  page = Page(write_report(workdir, [twin]))
  assert not re.search(r"<b>(sad|twin)", page.source)
  assert [row[0] for row in page.rows].count(TRICKY) == 2  # confusion matrix and per-class table
  assert any(TRICKY in (image["alt"] or "") for image in page.all("img"))
  assert {attributes["href"] for attributes in page.all("a")} >= {"../../%3Cb%3Etwin%20%26%20%22/report/index.html"}
  for text in (
    f"{TRICKY}: ",  # the title
    f"class {TRICKY} is rare",
    f"Step 3: event {TRICKY}",
    f"--config.name={TRICKY}",
    f"$phase$ {TRICKY} to step 6,000",
    '<i>"&, by layer',
    'validation, <b>twin & "',
  ):
    assert text in page.text
  assert page.text.count(f"$phase$ {TRICKY}") > 1  # in the charts too, and not as mathematics


def test_calibration_and_the_kind_of_seconds_are_told(workdir: Path) -> None:
  write_run(workdir)
  text = Page(write_report(workdir)).text
  assert "4.50 %" in text
  assert "12.30 % before scaling by the temperature 1.31" in text
  assert "processor time of the whole run" in text


def test_paper_table_shows_what_the_paper_reports_and_marks_what_is_not_measured(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  assert ["test accuracy", "88.23 %", f"{100 * result['accuracy']:.2f} %"] in page.rows
  assert ["seconds a step", "0.04929", "not yet measured"] in page.rows
  assert ["parameters", "7,000,000", "not yet measured"] in page.rows
  assert "layers" not in [row[0] for row in page.rows]  # measured, but not in the paper
  assert "The paper's split is by image" in page.text


def test_runs_beside_are_listed_linked_and_drawn(workdir: Path, tmp_path: Path) -> None:
  own = write_run(workdir)
  other = write_run(tmp_path / "twin", best=0.8, steps=3000)
  write_report(tmp_path / "twin")
  write_run(tmp_path / "unfinished", ended=False)
  page = Page(write_report(workdir, [tmp_path / "twin", tmp_path / "unfinished"]))
  rows = {row[0]: row for row in page.rows}
  assert rows["twin"][2] == f"{100 * (other['accuracy'] - own['accuracy']):+.2f}"
  assert rows["twin"][-2:] == ["3,000", "configs/hsic.py:small"]
  assert rows["unfinished"][1] == "not yet measured"
  links = [attributes["href"] for attributes in page.all("a")]
  assert "../../twin/report/index.html" in links
  assert not any("unfinished" in (link or "") for link in links)
  assert {"validation, twin", "validation, unfinished"} <= set(re.findall(r"</i>(validation, \w+)", page.source))


def test_metrics_cut_short_lose_one_line_and_the_page_says_which(workdir: Path) -> None:
  write_run(workdir, ended=False)
  path = workdir / "metrics.jsonl"
  whole = path.read_bytes()
  lines = whole.count(b"\n")
  path.write_bytes(whole[:-20])
  page = Page(write_report(workdir))
  assert f"(line {lines})" in page.text
  assert "could not be read" in page.text
  path.write_bytes(whole)
  assert "could not be read" not in Page(write_report(workdir)).text


def test_run_without_result_shows_what_there_is_and_says_so(workdir: Path) -> None:
  write_run(workdir, ended=False)
  page = Page(write_report(workdir))
  assert "no result.json" in page.text
  assert "Best validation accuracy so far" in page.text
  assert "logged up to step 2,000" in page.text
  assert len(page.all("svg")) == 6
  assert "Worst mistakes" not in page.text
  assert ["test accuracy", "88.23 %", "not yet measured"] in page.rows


def test_run_that_logged_nothing_yet_has_a_page(workdir: Path) -> None:
  write_run(workdir, ended=False)
  (workdir / "metrics.jsonl").write_text("")
  page = Page(write_report(workdir))
  assert page.all("svg") == []
  assert "not yet measured" in page.text


def test_a_repeated_step_counts_once_with_its_later_record(workdir: Path) -> None:
  write_run(workdir, ended=False)
  records = [{"kind": "eval", "split": "validation", "step": 100, "accuracy": value} for value in (0.9, 0.25)]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  page = Page(write_report(workdir))
  assert "25.00 %" in page.text
  assert "90.00 %" not in page.text


def test_a_loss_that_is_not_finite_is_named(workdir: Path) -> None:
  write_run(workdir)
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 1510, "phase": "classifier", "loss": NaN}\n')
  assert "not a finite number at step 1,510" in Page(write_report(workdir)).text


def test_several_seeds_are_summed_up_by_their_mean(workdir: Path) -> None:
  result = write_run(workdir)
  result |= {
    "runs": [{"name": f"seed_{seed}", "seed": seed, "accuracy": 0.6 + seed / 10} for seed in (0, 1)],
    "accuracy": 0.65,
    "std": 0.0707,
  }
  result |= {"interval_95": [0.55, 0.75], "seeds": [0, 1]}
  (workdir / "result.json").write_text(json.dumps(result))
  page = Page(write_report(workdir))
  assert "65.00 %" in page.text
  assert "55.00 \N{EN DASH} 75.00 %" in page.text
  assert "mean of 2 seeds, standard deviation 7.07 %" in page.text
  assert ["seed 1", "1", "70.00 %"] in [row[:3] for row in page.rows]
  assert "The replicas differ only in their seed" in page.text


def test_images_that_stand_in_training_are_left_out_beside(workdir: Path) -> None:
  result = write_run(workdir)
  for seen, said in (
    (288, "without the 288 test images that also appear in training: 71.30 % over 3,301"),
    (3589, "all 3,589 test images also appear in training, themselves or as copies"),
    (0, None),
  ):
    fresh = {"accuracy": 0.713 if seen < 3589 else None, "images": 3589 - seen, "seen": seen}
    (workdir / "result.json").write_text(json.dumps(result | {"deduplicated": fresh}))
    page = Page(write_report(workdir))
    assert said in page.text if said else "appear in training" not in page.text


def test_a_recall_that_is_printed_alone_stands_at_the_recall(workdir: Path) -> None:
  write_run(workdir, settings={"paper": {"by_class": {"fear": [0.8222]}}})
  page = Page(write_report(workdir))
  row = next(row for row in page.rows if row[0] == "fear" and len(row) == 5)
  assert [cell.partition("paper ")[2] for cell in row[1:]] == ["", "0.822", "", ""]


def test_page_is_written_whole_and_the_same_twice(workdir: Path) -> None:
  write_run(workdir)
  first = write_report(workdir).read_bytes()
  assert write_report(workdir).read_bytes() == first
  assert [path.name for path in (workdir / "report").iterdir()] == ["index.html"]


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl"])
def test_a_folder_that_is_no_workdir_is_refused(workdir: Path, missing: str) -> None:
  write_run(workdir)
  (workdir / missing).unlink()
  with pytest.raises(UserError, match=rf"{re.escape(str(workdir))}: expected .* no {missing}; give"):
    main([f"--workdir={workdir}"])
  assert not (workdir / "report").exists()


@pytest.mark.parametrize("damaged", ["config.json", "result.json", "predictions.npz"])
def test_a_damaged_file_is_named(workdir: Path, damaged: str) -> None:
  write_run(workdir)
  (workdir / damaged).write_bytes((workdir / damaged).read_bytes()[:100])
  with pytest.raises(UserError, match=re.escape(f"{workdir / damaged}: expected")) as caught:
    write_report(workdir)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("array", "change"),
  [
    ("replica", lambda values: values + 1),
    ("replica", lambda values: values - 1),
    ("replica", lambda values: values[:-1]),
    ("worst", lambda values: values + 10**6),
    ("worst", lambda values: values[:-1]),
  ],
)
def test_predictions_that_point_at_nothing_are_refused(
  workdir: Path, array: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
  write_folds(workdir, best=(0.55, 0.6))
  path = workdir / "predictions.npz"
  saved = dict(np.load(path))
  np.savez(path, **{**saved, array: change(saved[array])})
  with pytest.raises(UserError, match=rf"{re.escape(str(path))}: expected .*{array}") as caught:
    write_report(workdir)
  assert "\n" not in str(caught.value)
  assert not list(workdir.rglob("index.html"))


def test_command_line_prints_the_path(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
  write_run(workdir)
  write_run(tmp_path / "twin")
  main([f"--workdir={workdir}", f"--beside={tmp_path / 'twin'}"])
  assert capsys.readouterr().out == f"{workdir / 'report' / 'index.html'}\n"
  assert "twin" in (workdir / "report" / "index.html").read_text()
