"""Oulu-CASIA in its two trees, intact and damaged."""

import pathlib
import shutil

import cv2
import numpy as np
import pytest

from fer_jax.data import builders
from fer_jax.data.builders.oulu_casia import selection
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

SIX = ["angry", "disgust", "fear", "happy", "sad", "surprise"]
FOLDERS = ["Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"]
FRAMES = 8  # in a drawn sequence; real ones have nine or more
CONFIGURATIONS = ("default", "neutral", "paper", "vl_weak", "vl_dark", "ni_strong", "ni_weak", "ni_dark")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  """Both trees, complete: the original one with two identical subjects, the cropped one with one subject."""
  folder = tmp_path_factory.mktemp("drawn")
  layouts.write_tree("oulu_casia", folder, subjects=1, scale=0.1)
  for subject in sorted(folder.glob("OriginalImg/*/*/P001")):
    shutil.copytree(subject, subject.with_name("P002"))
  layouts.write_tree("oulu_casia_cropped", folder, subjects=1, scale=0.3)
  return folder


def copy_original(drawn, root):
  """Copies the sequences in strong visible light of the original tree."""
  return pathlib.Path(shutil.copytree(drawn / "OriginalImg" / "VL" / "Strong", root / "VL" / "Strong"))


def copy_cropped(drawn, root):
  """Copies the sequences in strong visible light of the cropped tree."""
  condition = pathlib.Path("VL_Acropped", "Strong")
  return pathlib.Path(shutil.copytree(drawn / "PreProcess_Img" / condition, root / condition))


@pytest.fixture
def tree(drawn, tmp_path):
  """VL/Strong of two subjects, with six sequences of eight frames each."""
  return copy_original(drawn, tmp_path / "manual" / "OriginalImg")


def frames(subject, folder, numbers, condition="VL/Strong"):
  return [f"{condition}/{subject}/{folder}/{number:03d}.jpeg" for number in numbers]


def test_default_has_the_last_three_frames_of_six_expressions(prepared, tree, tmp_path):
  found = prepared("oulu_casia", tmp_path / "manual")
  assert found.class_names == SIX
  sequences = [(subject, folder) for subject in ("P001", "P002") for folder in FOLDERS]
  assert found.column("file") == [file for sequence in sequences for file in frames(*sequence, (5, 6, 7))]
  assert found.column("group") == [f"{subject}_{folder}" for subject, folder in sequences for _ in range(3)]
  assert found.column("subject") == ["P001"] * 18 + ["P002"] * 18
  assert [record["label"] for record in found.records] == [label for label in range(6) for _ in range(3)] * 2
  origin = found.metadata["origin"]
  assert (origin["form"], origin["path"]) == ("original", str(tree.parents[1]))
  assert origin["contents"] == "VL/Strong: 12 sequences of 2 people"
  assert (found.metadata["framing"], found.metadata["image_size"]) == ("photograph", 128)
  assert found.metadata["fixed_squares"] == {"": [0.5, 0.5, 0.7]}
  assert found.metadata["comparison"] == []


def test_colour_frames_become_grey_and_grey_frames_keep_their_bytes(prepared, tree, tmp_path):
  grey = tree / "P001" / "Anger" / "006.jpeg"
  cv2.imwrite(str(grey), np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8))
  first, second = prepared("oulu_casia", tmp_path / "manual").records[:2]
  colour = cv2.imread(str(tree / "P001" / "Anger" / "005.jpeg"), cv2.IMREAD_UNCHANGED)
  assert colour.ndim == 3
  stored = cv2.imdecode(np.frombuffer(first["image"], np.uint8), cv2.IMREAD_UNCHANGED)
  expected = cv2.imread(str(tree / "P001" / "Anger" / "005.jpeg"), cv2.IMREAD_GRAYSCALE)
  np.testing.assert_array_equal(stored, expected)
  assert second["image"] == grey.read_bytes()


def test_neutral_is_the_first_frame(prepared, tree, tmp_path):
  found = prepared("oulu_casia/neutral", tmp_path / "manual")
  assert found.class_names == [*SIX, "neutral"]
  assert found.counts() == {**dict.fromkeys(SIX, 6), "neutral": 12}
  assert found.column("file")[4:8] == frames("P001", "Disgust", (0, 5, 6, 7))
  assert [record["label"] for record in found.records[4:8]] == [6, 1, 1, 1]
  assert set(found.column("group")[4:8]) == {"P001_Disgust"}


def test_paper_has_the_last_six_frames_and_all_earlier_ones_as_neutral(prepared, tree, tmp_path):
  shutil.copy(tree / "P002" / "Fear" / "007.jpeg", tree / "P002" / "Fear" / "008.jpeg")
  found = prepared("oulu_casia/paper", tmp_path / "manual")
  assert found.class_names == [*SIX, "neutral"]
  assert found.counts() == {**dict.fromkeys(SIX, 12), "neutral": 2 * 12 + 1}
  rows = [row for row, group in enumerate(found.column("group")) if group == "P002_Fear"]
  assert [found.column("file")[row] for row in rows] == frames("P002", "Fear", range(9))
  assert [found.records[row]["label"] for row in rows] == [6] * 3 + [2] * 6
  lines = found.metadata["comparison"]
  assert lines[0].startswith("class       here   table 2")
  assert [line.split() for line in lines[1:9]] == [
    ["angry", "12", "476"],
    ["disgust", "12", "462"],
    ["fear", "12", "505"],
    ["happy", "12", "484"],
    ["sad", "12", "453"],
    ["surprise", "12", "484"],
    ["neutral", "25", "8016"],
    ["total", "97", "10880"],
  ]
  assert lines[9].startswith("Inferred, not stated in the paper: the last 6 frames")
  assert "2,864 frames of 480 sequences: 5.97 per sequence" in lines[10]


def test_every_camera_and_light_has_a_configuration(prepared, drawn):
  assert builders.configurations("oulu_casia") == CONFIGURATIONS
  for name in CONFIGURATIONS[3:]:
    camera, light = name.split("_")
    condition = f"{camera.upper()}/{light.capitalize()}"
    found = prepared(f"oulu_casia/{name}", drawn / "OriginalImg")
    assert found.class_names == SIX and found.counts() == dict.fromkeys(SIX, 6)
    assert found.column("file")[:3] == frames("P001", "Anger", (5, 6, 7), condition)
    assert found.metadata["origin"]["contents"].startswith(f"{condition}: ")


@pytest.mark.parametrize("root", ["", "OriginalImg", "download/Oulu_CASIA/originalimg"])
def test_finds_the_original_tree_in_any_subfolder(prepared, drawn, tmp_path, root):
  copy_original(drawn, tmp_path / "manual" / root)
  found = prepared("oulu_casia", tmp_path / "manual")
  assert len(found.records) == 36
  assert found.metadata["origin"]["path"] == str(tmp_path / "manual" / root)


@pytest.mark.parametrize("root", ["", "PreProcess_Img", "PreProcessImg", "PreProcess", "a/b/preprocess_img"])
def test_cropped_tree_has_face_crops(prepared, drawn, tmp_path, root):
  copy_cropped(drawn, tmp_path / "manual" / root)
  found = prepared("oulu_casia", tmp_path / "manual")
  assert found.column("file")[:3] == frames("P001", "Anger", (5, 6, 7), "VL_Acropped/Strong")
  assert (found.metadata["origin"]["form"], found.metadata["framing"]) == ("cropped", "face")
  assert (found.metadata["image_size"], found.metadata["fixed_squares"]) == (48, {})
  assert len(found.metadata["warnings"]) == 1, "expected only the warning about the numbers of images"


@pytest.mark.parametrize("roots", [("OriginalImg", "PreProcess_Img"), ("", "")])
def test_original_tree_is_preferred_with_a_warning(prepared, drawn, tmp_path, roots):
  copy_original(drawn, tmp_path / "manual" / roots[0])
  other = copy_cropped(drawn, tmp_path / "manual" / roots[1])
  found = prepared("oulu_casia", tmp_path / "manual")
  assert found.metadata["origin"]["form"] == "original"
  assert f"the cropped images ({other}) are present too and are not read" in found.warning("present too")


def test_cropped_tree_is_read_where_the_original_one_lacks_the_light(prepared, drawn, tree, tmp_path):
  shutil.copytree(drawn / "PreProcess_Img", tmp_path / "manual" / "PreProcess_Img")
  found = prepared("oulu_casia/ni_dark", tmp_path / "manual")
  assert found.metadata["origin"]["form"] == "cropped"
  assert found.column("file")[0] == "NI_Acropped/Dark/P001/Anger/005.jpeg"


def test_ignores_capitalization_suffixes_and_leading_zeros(prepared, tree, tmp_path):
  anger = tree / "P001" / "Anger"
  for path in sorted(anger.iterdir()):
    path.rename(anger / f"{int(path.stem) + 4}.JPG")  # 4 to 11; in alphabetical order, 10 and 11 come first
  anger.rename(tree / "P001" / "ANGER")
  (tree / "P001" / "Fear").rename(tree / "P001" / "fear")
  for path in sorted((tree / "P002" / "Fear").iterdir()):
    path.rename(path.with_suffix(".jpg"))
  for name in (".DS_Store", "Thumbs.db"):
    (tree / "P002" / "Fear" / name).write_bytes(b"x")
  (tree / "P001").rename(tree / "p001")
  tree.rename(tree.with_name("strong"))
  tree.parent.rename(tree.parent.with_name("vl"))
  found = prepared("oulu_casia", tmp_path / "manual")
  assert found.counts() == dict.fromkeys(SIX, 6)
  assert [pathlib.Path(file).name for file in found.column("file")[:3]] == ["9.JPG", "10.JPG", "11.JPG"]
  assert set(found.column("subject")) == {"P001", "P002"}
  assert found.column("group")[0] == "P001_Anger" and "P001_Fear" in found.column("group")
  assert len(found.metadata["warnings"]) == 1, "expected only the warning about the numbers of images"


def test_warnings_list_unusable_files_with_their_reason(prepared, tree, tmp_path):
  one, two = tree / "P001", tree / "P002"
  shutil.rmtree(one / "Anger")
  for path in (one / "Disgust").iterdir():
    path.unlink()
  for number in range(2, FRAMES):
    (one / "Fear" / f"{number:03d}.jpeg").unlink()
  (one / "Happiness" / "007.jpeg").write_bytes(b"")
  (one / "Sadness" / "007.jpeg").write_bytes((one / "Sadness" / "007.jpeg").read_bytes()[:300])
  (one / "Surprise" / "007.jpeg").rename(one / "Surprise" / "last.jpeg")
  (one / "Contempt").mkdir()
  (two / "anger").mkdir()
  (two / "Fear" / "more").mkdir()
  shutil.copy(two / "Fear" / "007.jpeg", two / "Fear" / "007.jpg")
  (two / "Disgust" / "notes.txt").write_text("x")
  (two / "readme.txt").write_text("x")
  (tree / "list.txt").write_text("x")
  (tree / "Q001").mkdir()
  found = prepared("oulu_casia", tmp_path / "manual")
  condition = "VL/Strong"
  expected = {
    "missing sequence": [f"{condition}/P001/Anger/"],
    "sequence without frames": [f"{condition}/P001/Disgust/"],
    "sequence with fewer than 3 frames": [f"{condition}/P001/Fear/"],
    "empty (0 bytes)": [f"{condition}/P001/Happiness/007.jpeg"],
    "not a readable image": [f"{condition}/P001/Sadness/007.jpeg"],
    "expected a frame such as 000.jpeg": [
      f"{condition}/P001/Surprise/last.jpeg",
      f"{condition}/P002/Disgust/notes.txt",
    ],
    "not an expression's folder such as Anger": [f"{condition}/P001/Contempt/"],
    "another folder of the same expression": [f"{condition}/P002/anger/"],
    "unexpected subfolder of a sequence": [f"{condition}/P002/Fear/more/"],
    "another image of the same frame": [f"{condition}/P002/Fear/007.jpg"],
    "not inside a sequence folder": [f"{condition}/list.txt", f"{condition}/P002/readme.txt"],
    "not a person's folder": [f"{condition}/Q001/"],
  }
  for message, files in expected.items():
    line = found.warning(message)
    assert line.startswith(f"{len(files)} left out (")
    assert line.endswith(f"): {', '.join(files)}")
  assert found.counts() == {"angry": 3, "disgust": 3, "fear": 3, "happy": 5, "sad": 5, "surprise": 6}
  assert found.metadata["origin"]["contents"] == "VL/Strong: 10 sequences of 2 people"


@pytest.mark.parametrize(("name", "needed"), [("neutral", 4), ("paper", 7)])
def test_sequences_need_one_more_frame_where_the_first_is_neutral(prepared, tree, tmp_path, name, needed):
  for number in range(needed, FRAMES):
    (tree / "P001" / "Anger" / f"{number:03d}.jpeg").unlink()
  (tree / "P002" / "Anger" / "000.jpeg").unlink()
  for number in range(needed, FRAMES):
    (tree / "P002" / "Anger" / f"{number:03d}.jpeg").unlink()
  found = prepared(f"oulu_casia/{name}", tmp_path / "manual")
  line = found.warning(f"sequence with fewer than {needed} frames")
  assert line.endswith(": VL/Strong/P002/Anger/")
  assert "P001_Anger" in found.column("group")


def test_complete_copy_has_no_warning_and_a_missing_sequence_has_one(prepared, tree, tmp_path, monkeypatch):
  monkeypatch.setattr(selection, "PEOPLE", 2)
  for name in CONFIGURATIONS[:3]:
    assert prepared(f"oulu_casia/{name}", tmp_path / "manual").metadata["warnings"] == []
  shutil.rmtree(tree / "P002" / "Sadness")
  for name, counts in zip(CONFIGURATIONS, ("sad 3 of 6", "sad 3 of 6, neutral 11 of 12", "sad 6 of 12"), strict=False):
    found = prepared(f"oulu_casia/{name}", tmp_path / "manual")
    assert found.warning("missing sequence").endswith("): VL/Strong/P002/Sadness/")
    assert f"differ from the published dataset: {counts}. Results" in found.warning("differ from the published dataset")


def only_archive(drawn, folder):
  folder.mkdir()
  (folder / "OriginalImg.rar").write_bytes(b"x")


def two_trees(drawn, folder):
  for name in ("a", "b"):
    copy_original(drawn, folder / name)


def no_subjects(drawn, folder):
  (folder / "VL" / "Strong").mkdir(parents=True)


def no_sequences(drawn, folder):
  (folder / "VL" / "Strong" / "P001" / "Anger").mkdir(parents=True)


def unreadable(drawn, folder):
  copy_original(drawn, folder)
  for path in folder.rglob("*.jpeg"):
    path.write_bytes(b"x")


@pytest.mark.parametrize(
  ("name", "write", "message"),
  [
    (
      "oulu_casia",
      only_archive,
      "does not contain Oulu-CASIA VL/Strong; expected folders such as OriginalImg/VL/Strong/P001/Anger/ or "
      "PreProcess_Img/VL_Acropped/Strong/P001/Anger/; unpack OriginalImg.rar there first",
    ),
    (
      "oulu_casia/ni_dark",
      copy_original,
      "does not contain Oulu-CASIA NI/Dark; expected folders such as OriginalImg/NI/Dark/",
    ),
    ("oulu_casia", two_trees, "contains Oulu-CASIA's original images 2 times .*: pass the folder of one of them"),
    ("oulu_casia", no_subjects, "VL/Strong has no usable sequence of 3 frames or more: it is empty"),
    (
      "oulu_casia/paper",
      no_sequences,
      r"VL/Strong has no usable sequence of 7 frames or more: 1 left out \(sequence without frames\): .*P001/Anger/; "
      r"5 left out \(missing sequence\)",
    ),
    (
      "oulu_casia",
      unreadable,
      "no usable image of Oulu-CASIA; left out: 36 not a readable image: unpack the dataset again",
    ),
    (
      "oulu_casia/x",
      no_subjects,
      "'oulu_casia/x' is unknown; expected one of the configurations of oulu_casia: default, neutral, ",
    ),
  ],
)
def test_rejects_unusable_folders_with_an_error_of_one_line(drawn, tmp_path, name, write, message):
  write(drawn, tmp_path / "manual")
  with pytest.raises(UserError, match=message) as caught:
    builders.prepare(name, str(tmp_path / "data"), str(tmp_path / "manual"))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()
