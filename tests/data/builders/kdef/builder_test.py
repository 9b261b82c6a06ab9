"""KDEF, intact and damaged."""

import functools
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.data import builders
from fer_jax.data.builders.photographs import Photograph, ReaderResult, Reject, check_images
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
CLASS_OF_CODE = dict(zip(("AN", "DI", "AF", "HA", "SA", "SU", "NE"), SEVEN, strict=True))


@pytest.fixture
def tree(tmp_path):
  """The official tree with two subjects, F01 and M01: two sessions, seven expressions and five angles each."""
  folder = tmp_path / "manual"
  layouts.write_tree("kdef", folder, subjects=2, scale=0.1)
  return folder


def test_labels_subjects_and_groups_come_from_the_file_names(prepared, tree):
  found = prepared("kdef", tree)
  assert found.class_names == SEVEN
  assert found.counts() == dict.fromkeys(SEVEN, 20)
  assert found.column("file") == sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.JPG"))
  for record in found.records:
    file = record["file"].decode()
    stem = file.partition("/")[2].removesuffix(".JPG")
    assert found.class_names[record["label"]] == CLASS_OF_CODE[stem[4:6]]
    assert record["subject"].decode() == stem[1:4]
    assert record["group"].decode() == f"{stem[1:4]}_{stem[4:6]}_{stem[0]}"
    assert record["image"] == (tree / file).read_bytes()


def test_sessions_share_a_subject_and_angles_share_a_group(prepared, tree):
  found = prepared("kdef", tree)
  assert set(found.column("subject")) == {"F01", "M01"}
  groups = found.column("group")
  assert {groups.count(group) for group in groups} == {5}
  assert len(set(groups)) == 2 * 2 * 7


def test_frontal_has_one_angle(prepared, tree):
  found = prepared("kdef/frontal", tree)
  assert found.counts() == dict.fromkeys(SEVEN, 4)
  assert {file.removesuffix(".JPG")[-3:] for file in found.column("file")} == {code + "S" for code in CLASS_OF_CODE}
  assert not found.metadata["warnings"]


def test_finds_the_tree_in_subfolders_and_ignores_capitalization(prepared, tree, tmp_path):
  for path in sorted(tree.rglob("*NE*.JPG")):
    path.rename(path.with_suffix(".jpg"))
  (tree / "AF01" / "Thumbs.db").write_bytes(b"x")
  (tree / "AF01").rename(tree / "af01")
  deeper = tmp_path / "download" / "KDEF_and_AKDEF" / "KDEF"
  deeper.parent.mkdir(parents=True)
  shutil.move(tree, deeper)
  found = prepared("kdef", tmp_path / "download")
  assert len(found.records) == 140
  assert len(found.metadata["warnings"]) == 1, "expected only the warning about the numbers of images"


def test_warnings_list_unusable_files_with_their_reason(prepared, tree):
  session = tree / "AF01"
  (session / "AF01ANS.JPG").rename(session / "AF01XXS.JPG")
  (session / "AF01DIS.JPG").rename(session / "AF01V.JPG")
  (session / "AF01HAS.JPG").rename(tree / "AM01" / "AF01HAS.JPG")
  (session / "AF01SAS.JPG").write_bytes(b"")
  (session / "AF01SUS.JPG").write_bytes((session / "AF01SUS.JPG").read_bytes()[:-300])
  (session / "AF01NES.JPG").write_bytes(b"not an image")
  (session / "AF01AFS.JPG").rename(session / "AF01AFS.bmp")
  (session / "AF01AFHL.JPG").unlink()
  (session / "AF01AFHL.JPG").symlink_to(tree / "nowhere")
  shutil.copy(session / "AF01AFFL.JPG", session / "af01affl.jpg")
  (session / "more").mkdir()
  (tree / "readme.pdf").write_bytes(b"x")
  (tree / "AKDEF").mkdir()
  found = prepared("kdef", tree)
  expected = {
    "unexpected file name, expected an image": ["AF01/AF01AFS.bmp", "AF01/AF01V.JPG", "AF01/AF01XXS.JPG"],
    "does not match its folder": ["AM01/AF01HAS.JPG"],
    "another image with the same name": ["AF01/af01affl.jpg"],
    "unexpected subfolder of a session": ["AF01/more/"],
    "not a session folder, 0 files": ["AKDEF/"],
    "not inside a session folder": ["readme.pdf"],
    "cannot be read: No such file": ["AF01/AF01AFHL.JPG"],
    "empty (0 bytes)": ["AF01/AF01SAS.JPG"],
    "not a readable image": ["AF01/AF01NES.JPG", "AF01/AF01SUS.JPG"],
  }
  for message, files in expected.items():
    line = found.warning(message)
    assert line.startswith(f"{len(files)} left out (")
    assert line.endswith(f"): {', '.join(files)}")
  assert len(found.records) == 140 - 8
  assert found.counts()["fear"] == 18
  assert "happy 19 of 700" in found.warning("differ from the published dataset")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_rejects_truncated_images(suffix):
  intact = cv2.imencode(suffix, np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8))[1].tobytes()
  photographs = tuple(
    Photograph(name, "sad", "F01", name, functools.partial(bytes, data))
    for name, data in (("intact", intact), ("padded", intact + bytes(99)), ("truncated", intact[:-50]))
  )
  found = check_images(ReaderResult(photographs, {"path": ""}, "photograph"), "KDEF", 3)
  assert [photograph.file for photograph in found.photographs] == ["intact", "padded"]
  assert found.rejects == (Reject("truncated", "not a readable image"),)


def test_unusual_sizes_and_near_black_images_are_kept_with_a_warning(prepared, tree):
  sizes = {"AF01/AF01ANS.JPG": (40, 30), "BM01/BM01NES.JPG": (20, 50)}
  for file, (height, width) in sizes.items():
    cv2.imwrite(str(tree / file), np.full((height, width, 3), 90, np.uint8))
  near_black = ["AM01/AM01HAFL.JPG", "AM01/AM01HAFR.JPG"]
  for file in near_black:
    cv2.imwrite(str(tree / file), np.full((76, 56, 3), 8, np.uint8))
  found = prepared("kdef", tree)
  assert len(found.records) == 140
  assert found.warning("are 30x40, most are 56x76").endswith(": AF01/AF01ANS.JPG")
  assert found.warning("are 50x20, most are 56x76").endswith(": BM01/BM01NES.JPG")
  assert found.warning("2 near-black images").endswith(f": {', '.join(near_black)}")


def test_several_shards_keep_the_order(prepared, tree, monkeypatch):
  monkeypatch.setattr("fer_jax.data.builders.photograph_builder._IMAGES_PER_SHARD", 50)
  found = prepared("kdef", tree)
  assert found.column("file") == sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.JPG"))


def empty_sessions(folder):
  for session in ("AF01", "BF01"):
    (folder / session).mkdir(parents=True)


def wrong_names(folder):
  layouts.write_tree("kdef", folder, subjects=1, scale=0.05)
  for path in folder.rglob("*.JPG"):
    path.rename(path.with_suffix(".tiff"))


def unreadable(folder):
  layouts.write_tree("kdef", folder, subjects=1, scale=0.05)
  for path in folder.rglob("*.JPG"):
    path.write_bytes(b"x")


def other_dataset(folder):
  layouts.write_tree("jaffe", folder, subjects=1, scale=0.1)


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (other_dataset, "does not contain KDEF; expected session folders such as AF01/"),
    (empty_sessions, "no usable image such as AF01/AF01ANFL.JPG: they are empty"),
    (wrong_names, r"no usable image such as AF01/AF01ANFL.JPG: 70 left out \(unexpected file name, expected an image"),
    (unreadable, r"no usable image of KDEF; left out: 70 not a readable image: unpack the dataset again"),
  ],
)
def test_rejects_unusable_folders_with_an_error_of_one_line(tmp_path, write, message):
  write(tmp_path / "manual")
  with pytest.raises(UserError, match=message) as caught:
    builders.prepare("kdef", str(tmp_path / "data"), str(tmp_path / "manual"))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()


def test_tfds_reads_the_dataset_without_this_package_or_tensorflow(prepared, tree, tmp_path):
  prepared("kdef", tree)
  program = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.data_source("kdef", split="train", data_dir=sys.argv[1])
loaded = [name for name in ("fer_jax", "tensorflow") if name in sys.modules]
print(json.dumps([len(source), list(source[0]["image"].shape), int(source[0]["image"].sum()), loaded]))
"""
  process = subprocess.run(
    [sys.executable, "-c", program, tmp_path / "data"], check=True, capture_output=True, text=True, cwd=tmp_path
  )
  first = cv2.imread(str(tree / "AF01" / "AF01AFFL.JPG"), -1)
  assert json.loads(process.stdout.splitlines()[-1]) == [140, [76, 56, 3], int(first.sum()), []]
