"""Tests of the audit program: its output, audit.json, and its page, which is parsed with html.parser."""

import base64
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.apps.audit import main
from fer_jax.apps.audit_page import page as audit_page
from fer_jax.apps.audit_page.content import audit_content, fold_overlaps
from fer_jax.data import arrays, builders
from fer_jax.data.duplicates import find_duplicates
from fer_jax.data.splits import make_folds
from fer_jax.runtime.errors import UserError
from tests.apps.html_page import Page
from tests.data.audit_test import dataset, photographs, toned

USAGES = ("Training", "PublicTest", "PrivateTest")


def write_csv(path, image, label, usage):
  """Writes images in the format of fer2013.csv."""
  rows = [f"{k},{' '.join(map(str, one.ravel().tolist()))},{u}" for one, k, u in zip(image, label, usage, strict=True)]
  path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")


@pytest.fixture
def data_dir(tmp_path):
  """Prepared FER2013 of 12 rows: 0, 4, 8 are identical; 1, 5 too, with different labels; 9 is near 2; 3 is constant."""
  image = photographs(12)
  image[4] = image[8] = image[0]
  image[5] = image[1]
  image[9] = toned(image[2])
  image[3] = 0
  (tmp_path / "manual").mkdir()
  usage = [USAGES[row // 4] for row in range(12)]
  write_csv(tmp_path / "manual" / "fer2013.csv", image, [0, 1, 2, 3, 0, 6, 5, 4, 0, 1, 2, 3], usage)
  builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path / "manual"))
  return tmp_path / "data"


@pytest.fixture
def audit_folder(data_dir, tmp_path):
  """Output folder of an audit."""
  main(["--dataset=fer2013", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}"])
  return tmp_path / "out"


def content_of(folder):
  """Returns the content of audit.json."""
  return json.loads((folder / "audit.json").read_text())


def section(source, anchor):
  """Returns the HTML of a section of a page."""
  return source.split(f'<section id="{anchor}">')[1].split("</section>")[0]


def test_prints_findings(data_dir, tmp_path, capsys):
  main(["--dataset=fer2013", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}"])
  printed = capsys.readouterr().out.splitlines()
  assert printed == [
    "Comparing the 12 images of fer2013 ...",
    "9 distinct images in 12 rows: 2 appear more than once",
    "1 of these groups of duplicates have conflicting labels",
    "2 of the 4 validation images also appear in train",
    "1 of the 4 test images also appear in train",
    "1 images are constant (all pixels equal)",
    "1 pairs of near duplicates (hash distance at most 6 of 64 bits) in 1 groups, 1 of them with conflicting labels",
    "1 of the 4 test images have a near duplicate in train, but no identical image",
    f"Page: {tmp_path / 'out' / 'index.html'}",
  ]


def test_json_lists_the_rows_of_all_findings(audit_folder, data_dir):
  content = content_of(audit_folder)
  assert content["duplicates"] == [
    {"rows": [0, 4, 8], "labels": ["angry"] * 3, "splits": ["train", "validation", "test"]},
    {"rows": [1, 5], "labels": ["disgust", "neutral"], "splits": ["train", "validation"]},
  ]
  near = content["near"]
  (pair,) = near["pairs"]
  assert [each["rows"] for each in pair["images"]] == [[2], [9]]
  assert [each["labels"] for each in pair["images"]] == [["fear"], ["disgust"]]
  assert (near["groups"], near["conflicting_groups"], near["largest_group"]) == (1, 1, 2)
  assert [each["rows"] for each in content["constant"]] == [[3]]
  assert (content["examples"], content["images"], content["conflicting_duplicates"]) == (12, 9, 1)
  assert content["class_counts"]["train"] == [1, 1, 1, 1, 0, 0, 0]
  counted = {(each["of"], each["among"]): (each["image"], each["near"]) for each in content["overlaps"]}
  assert counted == {("validation", "train"): (2, 0), ("test", "train"): (1, 1), ("test", "validation"): (1, 0)}
  assert content["origin"]["path"].endswith("fer2013.csv")
  assert set(content["versions"]) >= {"python", "numpy"}
  assert content["commit"]
  assert any("not the original" in note for note in content["notes"])


def test_page_shows_counts_and_is_self_contained(audit_folder):
  page = Page(audit_folder / "index.html")
  assert "2 of the 4 validation images also appear in the training split, pixel for pixel." in page.text
  assert ["test in train", "4", "1", "1", "not stated", "1"] in page.rows
  assert ["total", "4", "4", "4", "12"] in page.rows
  assert ["happy", "1 25.0 %", "0 0.0 %", "1 25.0 %", "2"] in page.rows
  assert not page.all("script")
  for _, attributes in page.elements:
    for name in ("src", "href"):
      assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))
  assert not re.search(r"url\((?!#)|@import", page.source)


def test_page_shows_images(audit_folder, data_dir):
  source = (audit_folder / "index.html").read_text()
  image = arrays.load("fer2013", str(data_dir)).image

  def embedded_images(text):
    files = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", text)]
    return [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE)[..., None] for file in files]

  for anchor, rows in (("equal", [1, 0]), ("similar", [2, 9, 2, 9]), ("constant", [3])):
    np.testing.assert_array_equal(embedded_images(section(source, anchor)), image[rows])
  equal = section(source, "equal")
  assert equal.index("Different labels") < equal.index("train disgust; validation neutral")
  assert equal.index("One label, different splits") < equal.index("train angry; validation angry; test angry")
  assert "One label, one split" not in equal
  assert 'train angry; validation angry; test angry <span class="muted">0, 4, 8</span>' in equal
  assert "distance" in section(source, "similar")


def test_page_shows_a_sample_of_many_pairs_and_their_number(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(audit_page, "_SAMPLE", 3)
  main(["--dataset=fer2013", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}", "--near=32"])
  content = content_of(tmp_path / "out")
  farthest = [pair for pair in content["near"]["pairs"] if pair["distance"] == 32]
  assert len(farthest) > 3
  similar = section((tmp_path / "out" / "index.html").read_text(), "similar")
  assert f'Distance 32 <span class="muted">3 of {len(farthest)} shown</span>' in similar
  assert len(re.findall("distance 32<", similar)) >= 3


def test_audits_the_folds_of_a_cross_validation(data_dir, tmp_path, capsys):
  loaded = arrays.load("fer2013", str(data_dir))
  make_folds(loaded, "images", 2, 0).save(tmp_path / "images.json")
  flags = ["--dataset=fer2013", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}"]
  main([*flags, f"--splits={tmp_path / 'images.json'}"])
  folds = content_of(tmp_path / "out")["folds"]
  number = np.array(json.loads((tmp_path / "images.json").read_text())["fold"])
  equal = [[0, 4, 8], [1, 5]]
  for k, fold in enumerate(folds):
    # Test images whose duplicate group also has images in training.
    seen = sum(int((number[rows] == k).sum()) for rows in equal if len(set(number[rows])) > 1)
    assert (fold["fold"], fold["examples"], fold["image"]) == (k, 6, seen)
  assert sum(fold["image"] for fold in folds) > 0
  assert [str(k) for k in range(2)] == [row[0] for row in Page(tmp_path / "out" / "index.html").rows if row[1] == "6"]
  printed = capsys.readouterr().out
  assert "of the 2 folds share an identical image between training and test" in printed
  make_folds(loaded, "groups", 2, 0).save(tmp_path / "groups.json")
  main([*flags, f"--splits={tmp_path / 'groups.json'}"])
  assert [(fold["image"], fold["group"]) for fold in content_of(tmp_path / "out")["folds"]] == [(0, 0), (0, 0)]
  assert "identical image between" not in capsys.readouterr().out


@pytest.mark.parametrize("splits", [["train"] * 4, ["train"] * 2 + ["test"] * 2])
def test_page_explains_the_columns_once(splits):
  data = dataset(photographs(4), [0, 1, 2, 2], splits)
  duplicates = find_duplicates(data)
  header = {"dataset": "x", "dataset_version": "1", "origin": None, "commit": "unknown", "versions": {}}
  folds = {"splits_file": "splits.json", "folds": fold_overlaps(data, duplicates, np.array([0, 1, 0, 1]))}
  source = audit_page.audit_page(header | audit_content(data, duplicates, 6) | folds, data.image)
  assert source.count("have a match on the other side") == 1
  assert "splits.json" in section(source, "folds")


def test_conflicting_labels_of_identical_images_are_not_counted_for_near_duplicates():
  image = photographs(2)[[0, 0, 1, 1]]
  image[3] = toned(image[2])
  data = dataset(image, [0, 1, 2, 2], ["train"] * 4)
  content = audit_content(data, find_duplicates(data), 6)
  assert content["conflicting_duplicates"] == 1
  assert (content["near"]["groups"], content["near"]["conflicting_groups"]) == (1, 0)


def test_two_expressions_of_one_person_are_no_conflict():
  image = photographs(3)[[0, 0, 1, 1, 2, 2]]
  image[[1, 3, 5]] = toned(image[[0, 2, 4]])
  data = dataset(image, [0, 1, 0, 1, 0, 0], ["train"] * 6, subject=["ann", "ann", "bob", "cid", "eve", "eve"])
  near = audit_content(data, find_duplicates(data), 6)["near"]
  assert (near["groups"], near["conflicting_groups"], near["posed_groups"]) == (3, 1, 1)


def test_page_names_subjects_in_several_splits_and_escapes_text(audit_folder):
  content = content_of(audit_folder)
  content["subjects"], content["subjects_in_several_splits"] = 5, {"<ann>": ["train", "test"]}
  for each in content["overlaps"]:
    each["subject"] = 2
  content["duplicates"][0]["labels"] = ["<b>"] * 3
  source = audit_page.audit_page(content, np.zeros((12, 48, 48, 1), np.uint8))
  assert "&lt;ann&gt;: train, test" in section(source, "splits")
  assert "train &lt;b&gt;" in section(source, "equal")
  assert "<b>" not in source
  assert "2 of the 4 test images show people who are also in the training split" in source
  assert "1 in more than one split" in source


def test_page_shrinks_large_images():
  image = photographs(1, 200, 3)[0][:, :150]
  assert audit_page._small(image).shape == (96, 72, 3)
  assert audit_page._small(image[..., :1]).shape == (96, 72, 1)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--near=33"], "--near=33: expected a number of bits from 0 to 32"),
    (["--near=-1"], "--near=-1: expected a number of bits from 0 to 32"),
    (["--splits=absent.json"], "absent.json: cannot be read"),
    (["--dataset=fer2014"], "dataset 'fer2014' is unknown"),
    (["--data_dir=nowhere"], "fer2013 is not prepared in nowhere"),
  ],
)
def test_invalid_flags_raise_before_anything_is_written(data_dir, tmp_path, flags, message):
  arguments = ["--dataset=fer2013", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}", *flags]
  with pytest.raises(UserError, match=re.escape(message)):
    main(arguments)
  assert not (tmp_path / "out").exists()


def test_unwritable_output_ends_with_one_line_and_status_2(data_dir, tmp_path):
  (tmp_path / "file").touch()
  command = [sys.executable, "-m", "fer_jax.apps.audit", "--dataset=fer2013", f"--data_dir={data_dir}"]
  process = subprocess.run([*command, f"--out={tmp_path / 'file'}"], check=False, capture_output=True, text=True)
  assert process.returncode == 2
  assert process.stderr.startswith("error: ")
  assert len(process.stderr.splitlines()) == 1
