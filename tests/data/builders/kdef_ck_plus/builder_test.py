"""The mixture of KDEF and CK+ from both trees, and its drawn counterpart."""

import json
import shutil
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import pytest

from fer_jax.data import arrays, builders
from fer_jax.data.builders.kdef_ck_plus.builder import DrawnKdefCkPlus
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


@pytest.fixture
def trees(tmp_path):
  """Both trees in subfolders: one subject of KDEF, two of CK+."""
  folder = tmp_path / "manual"
  layouts.write_tree("kdef", folder / "KDEF_and_AKDEF" / "KDEF", subjects=1, scale=0.1)
  layouts.write_tree("ck_plus", folder / "CK+", subjects=2, scale=0.1)
  return folder


def test_class_counts_are_multiples_of_ten_and_left_out_files_are_listed(prepared, trees):
  found = prepared("kdef_ck_plus", trees)
  assert found.class_names == SEVEN
  assert found.counts() == dict.fromkeys(SEVEN, 10)
  line = found.warning("12 left out to make every class a multiple of ten")
  assert line.count("cohn-kanade-images/S00") == 12
  assert "neutral" in found.metadata["comparison"][-2]
  assert "KDEF has 10, the paper has 700" in found.metadata["comparison"][1]


def test_whole_mixture_is_grey_and_has_separate_subjects(prepared, trees):
  found = prepared("kdef_ck_plus/whole", trees)
  assert found.counts() == {**dict.fromkeys(SEVEN, 12), "neutral": 10}
  assert set(found.column("subject")) == {"KDEF-F01", "CK-S005", "CK-S006"}
  for record in found.records:
    root = "CK+" if record["subject"].startswith(b"CK") else "KDEF_and_AKDEF/KDEF"
    stored = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_UNCHANGED)
    original = cv2.imread(str(trees / root / record["file"].decode()), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(stored, original)
  assert found.metadata["fixed_squares"] == {"KDEF-": [0.5, 0.56, 0.75], "CK-": [0.5, 0.5, 0.7]}


def test_unusable_files_of_both_datasets_are_listed(prepared, trees):
  (trees / "KDEF_and_AKDEF" / "KDEF" / "AF01" / "AF01ANS.JPG").write_bytes(b"")
  (trees / "CK+" / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000006.png").write_bytes(b"x")
  found = prepared("kdef_ck_plus/whole", trees)
  assert found.counts()["angry"] == 10
  assert found.warning("empty (0 bytes)").endswith(": AF01/AF01ANS.JPG")
  assert found.warning("not a readable image").endswith(": cohn-kanade-images/S005/001/S005_001_00000006.png")


@pytest.mark.parametrize(
  ("absent", "message"),
  [
    ("CK+/cohn-kanade-images", r"does not contain CK\+; expected both KDEF's folders .* and CK\+'s"),
    ("CK+/Emotion", r"CK\+'s images .* without their labels"),
    ("KDEF_and_AKDEF", r"does not contain KDEF; expected both"),
  ],
)
def test_rejects_one_dataset_without_the_other(trees, tmp_path, absent, message):
  shutil.rmtree(trees / absent)
  with pytest.raises(UserError, match=message) as caught:
    builders.prepare("kdef_ck_plus", str(tmp_path / "data"), str(trees))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()


@pytest.fixture
def few_subjects(monkeypatch):
  monkeypatch.setattr(DrawnKdefCkPlus, "PEOPLE", 2)
  monkeypatch.setattr(DrawnKdefCkPlus, "SCALE", 0.1)


@pytest.mark.usefixtures("few_subjects")
def test_drawn_mixture_needs_no_files_and_has_every_class_of_every_subject(prepared):
  found = prepared("drawn_kdef_ck_plus", None)
  assert found.counts() == {**dict.fromkeys(SEVEN, 22), "neutral": 20}
  subjects = set(found.column("subject"))
  assert subjects == {"KDEF-F01", "KDEF-M01", "CK-S005", "CK-S006"}
  shown = {(record["subject"].decode(), int(record["label"])) for record in found.records}
  assert shown == {(subject, label) for subject in subjects for label in range(6 if subject.startswith("CK") else 7)}
  assert found.metadata["warnings"] == [] and found.metadata["comparison"] == []
  assert tempfile.gettempdir() not in json.dumps(found.metadata)


@pytest.mark.usefixtures("few_subjects")
def test_drawn_mixture_is_deterministic_and_prepared_by_the_first_load(prepared, tmp_path, capsys):
  first = prepared("drawn_kdef_ck_plus", None)
  again = prepared("drawn_kdef_ck_plus", None)
  assert [record["image"] for record in first.records] == [record["image"] for record in again.records]
  loaded = arrays.load("drawn_kdef_ck_plus", str(tmp_path / "elsewhere"), image_size=16, crop="fixed")
  assert "drawn_kdef_ck_plus is not prepared yet" in capsys.readouterr().out
  assert loaded.image.shape == (152, 16, 16, 1)


@pytest.mark.usefixtures("few_subjects")
def test_drawn_trees_show_different_subjects(prepared, monkeypatch):
  seeds = []
  write_tree = layouts.write_tree
  monkeypatch.setattr(
    layouts,
    "write_tree",
    lambda name, folder, subjects, seed, scale: (seeds.append(seed), write_tree(name, folder, subjects, seed, scale)),
  )
  prepared("drawn_kdef_ck_plus", None)
  assert len(set(seeds)) == 2


def test_tfds_reads_the_dataset_without_this_package_or_tensorflow(prepared, trees, tmp_path):
  prepared("kdef_ck_plus", trees)
  program = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.data_source("kdef_ck_plus", split="train", data_dir=sys.argv[1])
loaded = [name for name in ("fer_jax", "tensorflow") if name in sys.modules]
print(json.dumps([len(source), [list(source[row]["image"].shape) for row in (0, 69)], loaded]))
"""
  process = subprocess.run(
    [sys.executable, "-c", program, tmp_path / "data"], check=True, capture_output=True, text=True, cwd=tmp_path
  )
  assert json.loads(process.stdout.splitlines()[-1]) == [70, [[76, 56, 1], [76, 56, 1]], []]
