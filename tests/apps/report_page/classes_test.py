"""Tests of the sections on classes and on mistakes of the report page."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np

from fer_jax.apps.report import write_report
from tests.apps.fake_run import NAMES, write_run
from tests.apps.html_page import Page


def test_per_class_metrics_and_confusion_counts_equal_the_result(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  exact = [[row["precision"], row["recall"], row["f1"], row["support"]] for row in result["per_class"]]
  assert np.reshape([float(value) for value, _ in page.data], (7, 4)).tolist() == exact
  assert [text for _, text in page.data[:3]] == [f"{value:.3f}" for value in exact[0][:3]]
  row = next(row for row in page.rows if row[0] == NAMES[1] and len(row) == 5)
  assert [cell.partition("paper ")[2] for cell in row[1:]] == ["0.934", "0.864", "0.898", ""]
  assert page.text.count("paper 0.") == 3
  for name, counts in zip(NAMES, result["confusion_matrix"], strict=True):
    cells = [f"{number}{100 * number / sum(counts):.0f} %" for number in counts]
    assert [name, *cells] in page.rows


def test_recall_reported_without_other_figures_is_in_the_recall_column(workdir: Path) -> None:
  write_run(workdir, settings={"paper": {"by_class": {"fear": [0.8222]}}})
  page = Page(write_report(workdir))
  row = next(row for row in page.rows if row[0] == "fear" and len(row) == 5)
  assert [cell.partition("paper ")[2] for cell in row[1:]] == ["", "0.822", "", ""]


def test_shows_metrics_over_all_classes(workdir: Path) -> None:
  metrics = write_run(workdir)["metrics"]
  assert Page(write_report(workdir)).facts("classes") == {
    "Balanced accuracy": f"{100 * metrics['balanced_accuracy']:.2f} %",
    "Macro F1": f"{metrics['macro_f1']:.4g}",
    "Cohen&#39;s kappa": "0.4321",
  }


def test_result_without_metrics_shows_none(workdir: Path) -> None:
  result = write_run(workdir)
  del result["metrics"]
  (workdir / "result.json").write_text(json.dumps(result))
  assert Page(write_report(workdir)).facts("classes") == {}


def test_mistakes_show_the_image_and_the_true_and_predicted_class(workdir: Path) -> None:
  write_run(workdir, channels=3)
  saved = np.load(workdir / "predictions.npz")
  red = np.zeros_like(saved["worst_image"])
  red[..., 0] = 200
  np.savez(workdir / "predictions.npz", **{**saved, "worst_image": red})
  page = Page(write_report(workdir))
  images = page.all("img")
  assert len(images) == 24 + 16
  png = base64.b64decode((images[0]["src"] or "").split(",", 1)[1])
  assert np.array(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))[0, 0].tolist() == [0, 0, 200]  # BGR
  worst = saved["worst"][0]
  probability = saved["probability"][worst]
  mistake = f"{NAMES[saved['label'][worst]]} \N{RIGHTWARDS ARROW} {NAMES[probability.argmax()]}"
  assert images[0]["alt"] == mistake
  assert f"{mistake}{100 * probability.max():.1f} %" in page.text
  assert f"row {saved['index'][worst]}" in page.text
