"""Official layouts: names, columns, codes and sizes equal those of the real datasets."""

import csv
import pathlib
import re

import cv2
import numpy as np
import pytest

from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS


def table(path: pathlib.Path) -> list[dict[str, str]]:
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def names(directory: pathlib.Path) -> list[str]:
  return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def tree(name: str, directory: pathlib.Path, **changes) -> list[str]:
  layouts.write_tree(name, directory, **({"scale": 0.1} | changes))
  return names(directory)


def test_fer2013_csv(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "fer2013.csv"
  layouts.write_fer2013_csv(path, rows_per_split=8)
  assert path.read_text().splitlines()[0] == "emotion,pixels,Usage"
  rows = table(path)
  assert [row["Usage"] for row in rows] == ["Training"] * 8 + ["PublicTest"] * 8 + ["PrivateTest"] * 8
  assert {row["emotion"] for row in rows} == set("0123456")
  pixels = np.array([row["pixels"].split(" ") for row in rows], int)
  assert pixels.shape == (24, 2304)
  assert 0 <= pixels.min() < pixels.max() <= 255
  assert len(np.unique(pixels, axis=0)) == 24


def test_icml_csv_has_the_rows_of_fer2013_csv_and_its_own_header(tmp_path: pathlib.Path) -> None:
  layouts.write_fer2013_csv(tmp_path / "fer2013.csv", rows_per_split=3, seed=5)
  layouts.write_icml_csv(tmp_path / "icml_face_data.csv", rows_per_split=3, seed=5)
  assert (tmp_path / "icml_face_data.csv").read_text().splitlines()[0] == "emotion, Usage, pixels"
  stripped = [{key.strip(): value for key, value in row.items()} for row in table(tmp_path / "icml_face_data.csv")]
  assert stripped == table(tmp_path / "fer2013.csv")


def test_seed_determines_the_images(tmp_path: pathlib.Path) -> None:
  for name, seed in (("a", 0), ("again", 0), ("b", 1)):
    layouts.write_fer2013_csv(tmp_path / name, rows_per_split=1, seed=seed)
  content = {name: (tmp_path / name).read_bytes() for name in ("a", "again", "b")}
  assert content["a"] == content["again"] != content["b"]


def test_ferplus_csv_matches_fer2013_csv_row_by_row(tmp_path: pathlib.Path) -> None:
  layouts.write_fer2013_csv(tmp_path / "fer2013.csv", rows_per_split=8)
  path = tmp_path / "fer2013new.csv"
  layouts.write_ferplus_csv(path, rows_per_split=8, nameless=[9])
  lines = path.read_bytes().split(b"\r\n")
  header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
  assert lines[0].decode() == header
  assert lines[-1] == b"" and len(lines) == 24 + 2
  column_of_code = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
  for number, (row, votes) in enumerate(zip(table(tmp_path / "fer2013.csv"), table(path), strict=True)):
    assert votes.pop("Usage") == row["Usage"]
    assert votes.pop("Image name") == ("" if number == 9 else f"fer{number:07d}.png")
    assert sum(map(int, votes.values())) == 10
    leader = max(votes, key=lambda column: int(votes[column]))
    assert leader == ("NF" if number == 9 else column_of_code[int(row["emotion"])])


def test_ckextended_csv_has_contempt_as_its_eighth_code(tmp_path: pathlib.Path) -> None:
  layouts.write_ckextended_csv(tmp_path / "ckextended.csv", rows_per_split=8)
  rows = table(tmp_path / "ckextended.csv")
  assert list(rows[0]) == ["emotion", "pixels", "Usage"]
  assert {row["emotion"] for row in rows} == set("01234567")


def test_kaggle_folders(tmp_path: pathlib.Path) -> None:
  layouts.write_kaggle_folders(tmp_path, per_class=2)
  found = names(tmp_path)
  for part, usages in (("train", "Training"), ("test", "PublicTest|PrivateTest")):
    for expression in EXPRESSIONS:
      matching = [name for name in found if re.fullmatch(rf"{part}/{expression}/({usages})_\d+\.jpg", name)]
      assert len(matching) == 2 * len(usages.split("|"))
  assert len(found) == 7 * 2 * 3
  image = cv2.imread(str(tmp_path / found[0]), cv2.IMREAD_UNCHANGED)
  assert image.shape == (48, 48)


def test_ck_plus(tmp_path: pathlib.Path) -> None:
  found = tree("ck_plus", tmp_path, subjects=1)
  assert "cohn-kanade-images/S005/001/S005_001_00000001.png" in found
  label_files = [name for name in found if name.endswith("_emotion.txt")]
  codes = {}
  for label_file in label_files:
    assert re.fullmatch(r"Emotion/S005/(\d{3})/S005_\1_\d{8}_emotion\.txt", label_file)
    frame = label_file.replace("Emotion", "cohn-kanade-images").replace("_emotion.txt", ".png")
    sequence = [name for name in found if name.startswith(frame.rpartition("/")[0]) and name.endswith(".png")]
    assert frame == max(sequence) and len(sequence) >= 3
    codes[label_file] = float((tmp_path / label_file).read_text())
  assert sorted(codes.values()) == [1, 2, 3, 4, 5, 6, 7]
  folders = {name.split("/")[2] for name in found if name.endswith(".png")}
  assert len(folders) == 8, "expected seven sequences with a code and one without"


def test_ck48(tmp_path: pathlib.Path) -> None:
  found = tree("ck48", tmp_path, subjects=2, scale=1.0)
  assert {name.split("/")[1] for name in found} == {
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happy",
    "sadness",
    "surprise",
  }
  assert all(re.fullmatch(r"CK\+48/[a-z]+/S\d{3}_\d{3}_\d{8}\.png", name) for name in found)
  assert len(found) == 2 * 7 * 3


def test_jaffe(tmp_path: pathlib.Path) -> None:
  found = tree("jaffe", tmp_path, subjects=2)
  assert "KA.AN1.1.tiff" in found
  assert all(re.fullmatch(r"K[AL]\.(NE|HA|SA|SU|AN|DI|FE)[123]\.\d+\.tiff", name) for name in found)
  serials = [int(name.split(".")[2]) for name in found]
  assert sorted(serials) == list(range(1, 2 * 7 * 3 + 1))


def test_kdef(tmp_path: pathlib.Path) -> None:
  found = tree("kdef", tmp_path, subjects=2)
  assert "AF01/AF01ANFL.JPG" in found and "BM01/BM01NES.JPG" in found
  pattern = r"([AB][FM]\d\d)/\1(AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)\.JPG"
  assert all(re.fullmatch(pattern, name) for name in found)
  assert len(found) == 2 * 2 * 7 * 5


@pytest.mark.parametrize(("name", "root"), [("oulu_casia", "OriginalImg"), ("oulu_casia_cropped", "PreProcess_Img")])
def test_oulu_casia(name: str, root: str, tmp_path: pathlib.Path) -> None:
  found = tree(name, tmp_path, subjects=1)
  camera = "VL" if name == "oulu_casia" else "VL_Acropped"
  assert f"{root}/{camera}/Strong/P001/Anger/000.jpeg" in found
  folders = {name.rpartition("/")[0] for name in found}
  assert len(folders) == 2 * 3 * 6
  assert {folder.rpartition("/")[2] for folder in folders} == {
    "Anger",
    "Disgust",
    "Fear",
    "Happiness",
    "Sadness",
    "Surprise",
  }


def test_part_of_a_tree_equals_that_part_of_the_whole_tree(tmp_path: pathlib.Path) -> None:
  part = tree("kdef", tmp_path / "part", subjects=2, scale=0.05, within="BM01/")
  whole = tree("kdef", tmp_path / "whole", subjects=2, scale=0.05)
  assert part == [name for name in whole if name.startswith("BM01/")] and len(part) == 35
  assert all((tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in part)


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    ("ck_plus", (490, 640)),
    ("ck48", (48, 48)),
    ("jaffe", (256, 256)),
    ("kdef", (762, 562, 3)),
    ("oulu_casia", (240, 320, 3)),
  ],
)
def test_images_are_scaled_from_the_official_size(name: str, shape: tuple[int, ...], tmp_path: pathlib.Path) -> None:
  found = tree(name, tmp_path, subjects=1, scale=0.5)
  image_file = next(file for file in found if not file.endswith(".txt"))
  image = cv2.imread(str(tmp_path / image_file), cv2.IMREAD_UNCHANGED)
  assert image.shape == (round(shape[0] / 2), round(shape[1] / 2), *shape[2:])


def test_sequence_moves_from_neutral_to_apex(tmp_path: pathlib.Path) -> None:
  tree("oulu_casia", tmp_path, subjects=1, scale=0.4)
  frames = [
    cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(int)
    for path in sorted((tmp_path / "OriginalImg/VL/Strong/P001/Surprise").iterdir())
  ]
  distance = [np.abs(frame - frames[0]).mean() for frame in frames]
  assert distance[0] < distance[2] < distance[-1]
