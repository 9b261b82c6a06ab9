"""Tests of the report page, which is parsed with html.parser."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_jax.apps.report import main, write_report
from fer_jax.runtime.errors import UserError
from fer_jax.training.intervals import wilson_interval
from tests.apps.fake_run import NAMES, TRICKY, write_folds, write_run
from tests.apps.html_page import Page


def test_page_is_self_contained(workdir: Path, tmp_path: Path) -> None:
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


def test_every_reference_within_the_page_has_one_target(workdir: Path) -> None:
  write_run(workdir)
  page = Page(write_report(workdir))
  anchors = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
  references = {attributes["href"] for tag in ("a", "use") for attributes in page.all(tag) if attributes.get("href")}
  references |= set(re.findall(r"url\((#[^)]*)\)", page.source))
  assert references
  assert references <= {f"#{anchor}" for anchor in anchors}
  assert len(anchors) == len(set(anchors))


def test_page_shows_headline_facts_and_charts(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  correct = np.trace(result["confusion_matrix"])
  low, high = wilson_interval(int(correct), 3589)
  assert f"{100 * correct / 3589:.2f} %" in page.text
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
    "Loss of the layers",
    "HSIC with the label, by layer",
    "HSIC with the input, by layer",
    "Learning rate",
    "Images a second",
  }
  assert charts <= set(page.captions())
  assert len(page.all("svg")) == len(charts)
  assert "block3_conv4" in page.text
  assert page.source.count("bottleneck</text>") == len(charts)  # each chart labels the shaded phase
  # The loss of the layers is no cross-entropy, as that of validation is: it has a chart of its own.
  labels = [svg["aria-label"] for svg in page.all("svg")]
  assert "Loss over training steps: training, validation" in labels
  assert "Loss of the layers over training steps: training" in labels


def test_charts_use_the_colours_of_the_style_sheet(workdir: Path) -> None:
  write_run(workdir)
  page = Page(write_report(workdir))
  for svg in re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL):
    assert "var(--" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_escapes_text_of_the_config_and_the_records(workdir: Path, tmp_path: Path) -> None:
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
  assert page.text.count(f"$phase$ {TRICKY}") > 1  # in the charts too, where $...$ is not rendered as mathematics


def test_shows_calibration_error_and_clock(workdir: Path) -> None:
  write_run(workdir)
  text = Page(write_report(workdir)).text
  assert "4.50 %" in text
  assert "12.30 % before scaling by the temperature 1.31" in text
  assert "processor time of the whole run" in text


def test_paper_table_shows_reported_values_and_marks_values_not_yet_measured(workdir: Path) -> None:
  result = write_run(workdir)
  page = Page(write_report(workdir))
  assert ["test accuracy", "88.23 %", f"{100 * result['accuracy']:.2f} %"] in page.rows
  assert ["seconds a step", "0.04929", "not yet measured"] in page.rows
  assert ["parameters", "7,000,000", "not yet measured"] in page.rows
  assert "layers" not in [row[0] for row in page.rows]  # measured, but not in the paper
  assert "The paper's split is by image" in page.text


def test_compared_runs_are_listed_linked_and_drawn(workdir: Path, tmp_path: Path) -> None:
  own = write_run(workdir)
  other = write_run(tmp_path / "twin", best=0.8, steps=3000)
  write_report(tmp_path / "twin")
  write_run(tmp_path / "unfinished", finished=False)
  page = Page(write_report(workdir, [tmp_path / "twin", tmp_path / "unfinished"]))
  rows = {row[0]: row for row in page.rows}
  assert rows["twin"][2] == f"{100 * (other['accuracy'] - own['accuracy']):+.2f}"
  assert rows["twin"][-2:] == ["3,000", "configs/hsic.py:small"]
  assert rows["unfinished"][1] == "not yet measured"
  links = [attributes["href"] for attributes in page.all("a")]
  assert "../../twin/report/index.html" in links
  assert not any("unfinished" in (link or "") for link in links)
  assert {"validation, twin", "validation, unfinished"} <= set(re.findall(r"</i>(validation, \w+)", page.source))


def test_truncated_line_of_the_metrics_is_skipped_and_named(workdir: Path) -> None:
  write_run(workdir, finished=False)
  path = workdir / "metrics.jsonl"
  complete = path.read_bytes()
  lines = complete.count(b"\n")
  path.write_bytes(complete[:-20])
  page = Page(write_report(workdir))
  assert f"(line {lines})" in page.text
  assert "could not be read" in page.text
  path.write_bytes(complete)
  assert "could not be read" not in Page(write_report(workdir)).text


def test_run_without_result_shows_its_log_and_a_notice(workdir: Path) -> None:
  write_run(workdir, finished=False)
  page = Page(write_report(workdir))
  assert "no result.json" in page.text
  assert "Best validation accuracy so far" in page.text
  assert "logged up to step 2,000" in page.text
  assert len(page.all("svg")) == 7
  assert "Worst mistakes" not in page.text
  assert ["test accuracy", "88.23 %", "not yet measured"] in page.rows


def test_run_with_empty_log_has_a_page_without_charts(workdir: Path) -> None:
  write_run(workdir, finished=False)
  (workdir / "metrics.jsonl").write_text("")
  page = Page(write_report(workdir))
  assert page.all("svg") == []
  assert "not yet measured" in page.text


def test_later_record_of_a_repeated_step_replaces_the_earlier_one(workdir: Path) -> None:
  write_run(workdir, finished=False)
  records = [{"kind": "eval", "split": "validation", "step": 100, "accuracy": value} for value in (0.9, 0.25)]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  page = Page(write_report(workdir))
  assert "25.00 %" in page.text
  assert "90.00 %" not in page.text


def test_reports_the_step_of_a_loss_that_is_not_finite(workdir: Path) -> None:
  write_run(workdir)
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 1510, "phase": "classifier", "loss": NaN}\n')
  assert "not a finite number at step 1,510" in Page(write_report(workdir)).text


def test_several_seeds_show_their_mean_and_interval(workdir: Path) -> None:
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


def test_shows_accuracy_without_test_images_that_also_appear_in_training(workdir: Path) -> None:
  result = write_run(workdir)
  for seen, text in (
    (288, "without the 288 test images that also appear in training: 71.30 % over 3,301"),
    (3589, "all 3,589 test images also appear in training, themselves or as copies"),
    (0, None),
  ):
    deduplicated = {"accuracy": 0.713 if seen < 3589 else None, "images": 3589 - seen, "seen": seen}
    (workdir / "result.json").write_text(json.dumps(result | {"deduplicated": deduplicated}))
    page = Page(write_report(workdir))
    assert text in page.text if text else "appear in training" not in page.text


def test_writing_twice_gives_the_same_bytes_and_no_other_file(workdir: Path) -> None:
  write_run(workdir)
  first = write_report(workdir).read_bytes()
  assert write_report(workdir).read_bytes() == first
  assert [path.name for path in (workdir / "report").iterdir()] == ["index.html"]


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl"])
def test_rejects_a_folder_that_is_not_a_workdir(workdir: Path, missing: str) -> None:
  write_run(workdir)
  (workdir / missing).unlink()
  with pytest.raises(UserError, match=rf"{re.escape(str(workdir))}: expected .* no {missing}; give"):
    main([f"--workdir={workdir}"])
  assert not (workdir / "report").exists()


@pytest.mark.parametrize("damaged", ["config.json", "result.json", "predictions.npz"])
def test_rejects_a_damaged_file_by_name(workdir: Path, damaged: str) -> None:
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
def test_rejects_predictions_with_invalid_indices(
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
  main([f"--workdir={workdir}", f"--compare={tmp_path / 'twin'}"])
  assert capsys.readouterr().out == f"{workdir / 'report' / 'index.html'}\n"
  assert "twin" in (workdir / "report" / "index.html").read_text()


def test_the_old_name_of_a_flag_is_refused_with_the_new_one(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
  with pytest.raises(SystemExit) as caught:
    main([f"--workdir={workdir}", "--beside=runs/twin"])
  assert caught.value.code == 2
  assert "the flag is now --compare=runs/twin" in capsys.readouterr().err
