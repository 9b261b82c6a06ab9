"""CK+ in its three forms, intact and damaged."""

import csv
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.data import builders
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

SIX = ["angry", "disgust", "fear", "happy", "sad", "surprise"]
# The sequences of the layout are in the order of the codes in the Emotion files.
BY_CODE = ["angry", "contempt", "disgust", "fear", "happy", "sad", "surprise"]
IMAGES = "cohn-kanade-images"


@pytest.fixture
def tree(tmp_path):
  """The official tree with two subjects and eight sequences of six frames each; the last sequence has no label."""
  folder = tmp_path / "manual"
  layouts.write_tree("ck_plus", folder, subjects=2, scale=0.1)
  return folder


def frames(sequence, numbers):
  subject, number = sequence.split("_")
  return [f"{IMAGES}/{subject}/{number}/{sequence}_{frame:08d}.png" for frame in numbers]


def test_default_has_the_last_three_frames_and_contempt_as_last_class(prepared, tree):
  found = prepared("ck_plus", tree)
  assert found.class_names == [*SIX, "contempt"]
  sequences = [f"{subject}_{number:03d}" for subject in ("S005", "S006") for number in range(1, 8)]
  assert found.column("file") == [file for sequence in sequences for file in frames(sequence, (4, 5, 6))]
  assert found.column("group") == [sequence for sequence in sequences for _ in range(3)]
  assert found.column("subject") == ["S005"] * 21 + ["S006"] * 21
  assert [found.class_names[record["label"]] for record in found.records] == [
    name for name in BY_CODE * 2 for _ in range(3)
  ]
  assert found.metadata["framing"] == "photograph"
  assert found.metadata["origin"]["form"] == "official"
  assert found.metadata["origin"]["contents"] == (
    "16 sequences of 2 people; 14 have a label, 2 have none and are left out"
  )


def test_files_keep_their_bytes(prepared, tree):
  for record in prepared("ck_plus", tree).records:
    assert record["image"] == (tree / record["file"].decode()).read_bytes()


def test_neutral_is_the_first_frame_and_contempt_is_left_out(prepared, tree):
  found = prepared("ck_plus/neutral", tree)
  assert found.class_names == [*SIX, "neutral"]
  assert found.counts() == {**dict.fromkeys(SIX, 6), "neutral": 12}
  assert found.column("file")[:4] == frames("S005_001", (1, 4, 5, 6))
  assert [record["label"] for record in found.records[:4]] == [6, 0, 0, 0]
  assert "and so are 2 of contempt" in found.metadata["origin"]["contents"]


def test_neutral_is_compared_with_the_paper_that_has_its_classes(prepared, tree, tmp_path):
  found = prepared("ck_plus/neutral", tree)
  header, *lines = (line.split() for line in found.metadata["comparison"])
  assert header[:4] == ["class", "here", "table", "2"]
  assert lines[:-1] == [
    ["angry", "6", "95"],
    ["disgust", "6", "79"],
    ["fear", "6", "72"],
    ["happy", "6", "108"],
    ["sad", "6", "110"],
    ["surprise", "6", "108"],
    ["neutral", "12", "228"],
    ["total", "48", "800"],
    ["people", "2", "70"],
  ]
  assert " ".join(lines[-1]) == "The paper does not specify which frames of which people it uses."
  for name in ("default", "last"):
    assert prepared(f"ck_plus/{name}", tree).metadata["comparison"] == []
  write_table(tmp_path / "table")
  of_table = prepared("ck_plus/neutral", tmp_path / "table").metadata["comparison"]
  assert len(of_table) == len(lines), "expected no line for the subjects, which the table does not contain"


def test_last_has_one_frame_per_sequence(prepared, tree):
  found = prepared("ck_plus/last", tree)
  assert found.class_names == SIX
  assert found.column("file") == [
    file
    for subject in ("S005", "S006")
    for number in (1, 3, 4, 5, 6, 7)
    for file in frames(f"{subject}_{number:03d}", [6])
  ]


@pytest.mark.parametrize("name", ["Emotion_labels", "EMOTION", "Emotion_labels/Emotion"])
def test_finds_labels_in_folders_of_other_names(prepared, tree, name):
  (tree / name).parent.mkdir(exist_ok=True)
  (tree / "Emotion").rename(tree / "moved")
  (tree / name).parent.mkdir(exist_ok=True)
  (tree / "moved").rename(tree / name)
  assert len(prepared("ck_plus", tree).records) == 42


def test_finds_the_tree_in_subfolders(prepared, tree, tmp_path):
  deeper = tmp_path / "download" / "ck" / "unpacked"
  deeper.parent.mkdir(parents=True)
  shutil.move(tree, deeper)
  assert len(prepared("ck_plus", tmp_path / "download").records) == 42


def test_colour_and_16_bit_frames_become_8_bit_grey(prepared, tree):
  colour, deep = (tree / file for file in frames("S005_001", (5, 6)))
  pixels = np.random.default_rng(0).integers(0, 256, (49, 64, 3), np.uint8)
  cv2.imwrite(str(colour), pixels)
  cv2.imwrite(str(deep), np.full((49, 64), 40_000, np.uint16))
  found = prepared("ck_plus", tree)
  first, second = (cv2.imdecode(np.frombuffer(found.records[row]["image"], np.uint8), -1) for row in (1, 2))
  np.testing.assert_array_equal(first, cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
  assert second.shape == (49, 64) and second.dtype == np.uint8 and set(second.ravel()) == {156}
  assert found.records[0]["image"] == (tree / frames("S005_001", (4,))[0]).read_bytes()


def test_ignores_capitalization_and_files_of_the_operating_system(prepared, tree):
  folder = tree / IMAGES / "S005" / "001"
  for path in sorted(folder.iterdir()):
    path.rename(path.with_suffix(".PNG"))
  (folder / "S005_001_00000004.PNG").rename(folder / "s005_001_00000004.png")
  for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
    (folder / name).write_bytes(b"x")
    (tree / "Emotion" / "S005" / "001" / name).write_bytes(b"x")
  (tree / ".trash").mkdir()
  found = prepared("ck_plus", tree)
  assert len(found.records) == 42
  assert [file[-12:-4] for file in found.column("file")[:3]] == ["00000004", "00000005", "00000006"]
  assert len(found.metadata["warnings"]) == 1, "expected only the warning about the numbers of images"


def test_warnings_list_unusable_files_with_their_reason(prepared, tree):
  images, labels = tree / IMAGES, tree / "Emotion"
  last = {number: images / "S005" / number / f"S005_{number}_00000006.png" for number in ("001", "002")}
  last["001"].write_bytes(b"")
  last["002"].write_bytes(last["002"].read_bytes()[:300])
  (images / "S005" / "003" / "S005_003_00000006.png").rename(images / "S005" / "003" / "photo.png")
  shutil.copy(images / "S006" / "001" / "S006_001_00000001.png", images / "S005" / "004")
  for frame in range(1, 5):
    (images / "S005" / "005" / f"S005_005_{frame:08d}.png").unlink()
  (labels / "S005" / "006" / "S005_006_00000006_emotion.txt").write_text("   8.0000000e+00\n")
  (labels / "S005" / "007" / "S005_007_00000006_emotion.txt").write_text("sad")
  (labels / "S006" / "001" / "notes.txt").write_text("1")
  (labels / "S006" / "002" / "S006_002_00000005_emotion.txt").write_text("2")
  (labels / "S006" / "003" / "S006_004_00000006_emotion.txt").write_text("3")
  shutil.rmtree(images / "S006" / "007")
  (images / "S006" / "readme.txt").write_text("x")
  (labels / "old").mkdir()
  found = prepared("ck_plus", tree)
  expected = {
    "empty (0 bytes)": [f"{IMAGES}/S005/001/S005_001_00000006.png"],
    "not a readable image": [f"{IMAGES}/S005/002/S005_002_00000006.png"],
    "expected a frame such as": [f"{IMAGES}/S005/003/photo.png"],
    "does not match its folder": [
      "Emotion/S006/003/S006_004_00000006_emotion.txt",
      f"{IMAGES}/S005/004/S006_001_00000001.png",
    ],
    "sequence with fewer than 3 frames": ["S005_005"],
    "no number from 1 to 7 in the file": [
      "Emotion/S005/006/S005_006_00000006_emotion.txt",
      "Emotion/S005/007/S005_007_00000006_emotion.txt",
    ],
    "expected an Emotion file such as": ["Emotion/S006/001/notes.txt"],
    "another label of the same sequence": ["Emotion/S006/002/S006_002_00000006_emotion.txt"],
    "label without images": ["Emotion/S006/007"],
    "not inside a sequence folder": [f"{IMAGES}/S006/readme.txt"],
    "not a person's folder": ["Emotion/old/"],
  }
  for message, files in expected.items():
    line = found.warning(message)
    assert line.startswith(f"{len(files)} left out (")
    assert line.endswith(f"): {', '.join(files)}")
  assert found.counts() == {"angry": 5, "contempt": 5, "disgust": 6, "fear": 6, "happy": 3, "sad": 3}
  assert "surprise 0 of 249" in found.warning("differ from the published dataset")


def test_sequences_without_a_label_are_counted(prepared, tree):
  (tree / "Emotion" / "S005" / "001" / "S005_001_00000006_emotion.txt").unlink()
  found = prepared("ck_plus/last", tree)
  assert len(found.records) == 11
  assert "13 have a label, 3 have none and are left out" in found.metadata["origin"]["contents"]


def test_ck48_has_subjects_and_sequences(prepared, tmp_path):
  layouts.write_tree("ck48", tmp_path / "manual", subjects=2)
  found = prepared("ck_plus", tmp_path / "manual")
  assert found.counts() == dict.fromkeys([*SIX, "contempt"], 6)
  assert set(found.column("subject")) == {"S010", "S011"}
  assert found.column("group")[:4] == ["S010_001"] * 3 + ["S010_002"]
  assert found.column("file")[0] == "anger/S010_001_00000015.png"
  assert (found.metadata["framing"], found.metadata["origin"]["form"]) == ("face", "CK+48")
  last = prepared("ck_plus/last", tmp_path / "manual")
  assert last.counts() == dict.fromkeys(SIX, 2)
  assert all(file.endswith("_00000017.png") for file in last.column("file"))


def test_ck48_warnings_list_unexpected_files(prepared, tmp_path):
  layouts.write_tree("ck48", tmp_path / "manual", subjects=1)
  root = tmp_path / "manual" / "CK+48"
  (root / "fear").rename(root / "FEAR")
  (root / "anger" / "me.png").write_bytes(b"x")
  (root / "neutral").mkdir()
  (root / "neutral" / "S010_009_00000001.png").write_bytes(b"x")
  (root / "readme.txt").write_text("x")
  found = prepared("ck_plus", tmp_path / "manual")
  assert found.counts()["fear"] == 3
  assert found.warning("expected a frame such as").endswith(": anger/me.png")
  assert found.warning("not a class folder, 1 files").endswith(": neutral/")
  assert found.warning("not inside a class folder").endswith(": readme.txt")


def write_table(folder, rows_per_split=8):
  folder.mkdir()
  layouts.write_ckextended_csv(folder / "ckextended.csv", rows_per_split)
  with (folder / "ckextended.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_ckextended_has_no_subjects(prepared, tmp_path):
  rows = write_table(tmp_path / "manual")
  classes = [*SIX, "neutral", "contempt"]
  for name in ("ck_plus", "ck_plus/neutral", "ck_plus/last"):
    found = prepared(name, tmp_path / "manual")
    expected = [row for row in rows if classes[int(row["emotion"])] in found.class_names]
    assert [found.class_names[record["label"]] for record in found.records] == [
      classes[int(row["emotion"])] for row in expected
    ]
    images = [cv2.imdecode(np.frombuffer(record["image"], np.uint8), -1) for record in found.records]
    pixels = np.array([row["pixels"].split() for row in expected], np.uint8)
    np.testing.assert_array_equal([image.ravel() for image in images], pixels)
    assert set(found.column("subject")) == {""}
    assert found.metadata["origin"]["form"] == "ckextended.csv"
    assert "subject-independent folds are not possible" in found.warning("the people in its images")
    assert any("one frame per sequence" in line for line in found.metadata["warnings"]) == (name != "ck_plus/last")


def test_official_tree_is_preferred_and_named_in_the_metadata(prepared, tree):
  layouts.write_tree("ck48", tree, subjects=1)
  assert prepared("ck_plus", tree).metadata["origin"]["form"] == "official"
  shutil.rmtree(tree / IMAGES)
  assert prepared("ck_plus", tree).metadata["origin"]["form"] == "CK+48"


def break_table(folder, change):
  write_table(folder)
  path = folder / "ckextended.csv"
  lines = path.read_text().splitlines()
  lines[3] = change(lines[3])
  path.write_text("\n".join(lines))


def only_archive(folder):
  folder.mkdir()
  (folder / "Emotion_labels.zip").write_bytes(b"x")


def fer2013(folder):
  layouts.write_kaggle_folders(folder, per_class=1)


def two_trees(folder):
  for name in ("a", "b"):
    layouts.write_tree("ck_plus", folder / name, subjects=1, scale=0.05)


def without(name):
  def write(folder):
    layouts.write_tree("ck_plus", folder, subjects=1, scale=0.05)
    shutil.rmtree(folder / name)

  return write


def all_empty(folder):
  layouts.write_tree("ck_plus", folder, subjects=1, scale=0.05)
  for path in (folder / IMAGES).rglob("*.png"):
    path.write_bytes(b"")


def no_labels(folder):
  layouts.write_tree("ck_plus", folder, subjects=1, scale=0.05)
  for path in (folder / "Emotion").rglob("*.txt"):
    path.unlink()


@pytest.mark.parametrize(
  ("name", "write", "message"),
  [
    (
      "ck_plus",
      only_archive,
      "does not contain CK\\+; expected cohn-kanade-images/ .* unpack Emotion_labels.zip there first",
    ),
    ("ck_plus", without("Emotion"), "images .* without their labels; looked for Emotion/ and Emotion_labels/"),
    ("ck_plus", without(IMAGES), "does not contain CK\\+"),
    ("ck_plus", fer2013, "does not contain CK\\+; expected"),
    ("ck_plus", two_trees, "contains CK\\+ 2 times .*: pass the folder of one of them"),
    ("ck_plus", all_empty, "no usable image of CK\\+; left out: 21 empty \\(0 bytes\\): unpack the dataset again"),
    ("ck_plus", no_labels, "contains no label of a sequence"),
    ("ck_plus/neutral", lambda f: layouts.write_tree("ck48", f, 1), "CK\\+48, which has no neutral faces"),
    (
      "ck_plus",
      lambda f: break_table(f, lambda row: "9" + row[1:]),
      "row 4: the label .* is '9', expected an integer from 0 to 7",
    ),
    ("ck_plus", lambda f: break_table(f, lambda row: row.replace(" ", " x", 1)), "row 4: a pixel is 'x"),
    ("ck_plus", lambda f: break_table(f, lambda row: row.replace(" ", ",", 1)), "row 4: 4 columns, expected 3"),
    ("ck_plus", lambda f: break_table(f, lambda row: row.replace(" ", "", 1)), "row 4: 2303 pixels, expected 2304"),
    (
      "ck_plus/x",
      lambda f: f.mkdir(),
      "'ck_plus/x' is unknown; expected one of the configurations of ck_plus: default, neutral, last",
    ),
  ],
)
def test_rejects_unusable_folders_with_an_error_of_one_line(tmp_path, name, write, message):
  write(tmp_path / "manual")
  with pytest.raises(UserError, match=message) as caught:
    builders.prepare(name, str(tmp_path / "data"), str(tmp_path / "manual"))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()


def test_tfds_reads_the_dataset_without_this_package_or_tensorflow(prepared, tree, tmp_path):
  prepared("ck_plus/neutral", tree)
  prepared("ck_plus", tree)
  program = """
import json, sys
import tensorflow_datasets as tfds
default = tfds.data_source("ck_plus", split="train", data_dir=sys.argv[1])
neutral = tfds.data_source("ck_plus/neutral", split="train", data_dir=sys.argv[1])
loaded = [name for name in ("fer_jax", "tensorflow") if name in sys.modules]
print(json.dumps([len(default), len(neutral), list(default[0]["image"].shape), int(default[0]["image"].sum()), loaded]))
"""
  process = subprocess.run(
    [sys.executable, "-c", program, tmp_path / "data"], check=True, capture_output=True, text=True, cwd=tmp_path
  )
  first = cv2.imread(str(tree / frames("S005_001", (4,))[0]), -1)
  assert json.loads(process.stdout.splitlines()[-1]) == [42, 48, [49, 64, 1], int(first.sum()), []]


def test_configurations_are_listed_and_the_first_is_the_default():
  assert builders.configurations("ck_plus") == ("default", "neutral", "last")
  assert builders.configurations("fer2013") == ()
  assert builders.make_builder("ck_plus").builder_config.name == "default"
  assert builders.required_files("ck_plus/last") == builders.required_files("ck_plus")
  with pytest.raises(UserError, match="'fer2013/x' is unknown; expected one of the configurations of fer2013: none"):
    builders.make_builder("fer2013/x")
