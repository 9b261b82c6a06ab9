"""JAFFE, intact and damaged, and its drawn counterpart."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import pytest

from fer_jax.data import arrays, builders
from fer_jax.data.builders.jaffe import source
from fer_jax.data.builders.jaffe.builder import DrawnJaffe
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
CLASS_OF_CODE = dict(zip(("AN", "DI", "FE", "HA", "SA", "SU", "NE"), SEVEN, strict=True))
SUBJECTS = {"KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM"}


@pytest.fixture(scope="module")
def drawn_tree(tmp_path_factory):
  folder = tmp_path_factory.mktemp("drawn")
  layouts.write_tree("jaffe", folder, subjects=2, scale=0.15)
  return folder


@pytest.fixture
def tree(drawn_tree, tmp_path):
  """The official tree with two subjects, KA and KL, and three images of each of seven expressions."""
  return pathlib.Path(shutil.copytree(drawn_tree, tmp_path / "manual"))


def decoded(record):
  return cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_UNCHANGED)


def palette_tiff(indices, colours, order="<"):
  """Returns an uncompressed palette TIFF of indices, uint8 [H, W], into RGB colours, uint8 [256, 3]."""
  short, long = 3, 4
  height, width = indices.shape
  pixels, palette = indices.tobytes(), (colours.T.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
  tags = [
    (256, short, 1, width),
    (257, short, 1, height),
    (258, short, 1, 8),  # bits per sample
    (259, short, 1, 1),  # no compression
    (262, short, 1, 3),  # palette colours
    (273, long, 1, 8),  # offset of the pixels
    (277, short, 1, 1),  # samples per pixel
    (278, short, 1, height),
    (279, long, 1, len(pixels)),
    (320, short, 3 * 256, 8 + len(pixels)),  # offset of the palette
  ]
  directory = struct.pack(f"{order}H", len(tags))
  for tag, kind, count, value in tags:
    one_short = kind == short and count == 1
    directory += struct.pack(f"{order}HHI", tag, kind, count)
    directory += struct.pack(f"{order}HH" if one_short else f"{order}I", *((value, 0) if one_short else (value,)))
  start = 8 + len(pixels) + len(palette)
  header = struct.pack(f"{order}2sHI", {"<": b"II", ">": b"MM"}[order], 42, start)
  return header + pixels + palette + directory + bytes(4)


def test_labels_subjects_and_groups_come_from_the_file_names(prepared, tree):
  found = prepared("jaffe", tree)
  assert found.class_names == SEVEN
  assert found.counts() == dict.fromkeys(SEVEN, 6)
  assert found.column("file") == sorted(path.name for path in tree.iterdir())
  assert set(found.column("subject")) == {"KA", "KL"}
  for record in found.records:
    file = record["file"].decode()
    assert found.class_names[record["label"]] == CLASS_OF_CODE[file[3:5]]
    assert (record["subject"].decode(), record["group"].decode()) == (file[:2], f"{file[:2]}_{file[3:5]}")
    np.testing.assert_array_equal(decoded(record), cv2.imread(str(tree / file), cv2.IMREAD_GRAYSCALE))
  assert {found.column("group").count(group) for group in found.column("group")} == {3}
  assert found.metadata["framing"] == "photograph"
  assert found.metadata["fixed_squares"] == {"": [0.5, 0.6, 0.6]}
  assert found.metadata["origin"]["contents"] == "42 images of 2 of the 10 people"


@pytest.mark.parametrize("order", ["<", ">"])
def test_palette_images_are_stored_by_their_colours(prepared, tree, order):
  generator = np.random.default_rng(0)
  grey = generator.integers(0, 256, (38, 40), np.uint8)
  index_of = generator.permutation(256).astype(np.uint8)
  grey_of = np.argsort(index_of).astype(np.uint8)  # grey level of each palette index
  path = tree / "KA.AN1.1.tiff"
  path.write_bytes(palette_tiff(index_of[grey], np.repeat(grey_of[:, None], 3, axis=1), order))
  found = prepared("jaffe", tree)
  np.testing.assert_array_equal(decoded(found.records[found.column("file").index(path.name)]), grey)


def test_colour_images_become_grey(prepared, tree):
  colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
  indices = np.arange(38 * 40, dtype=np.int64).reshape(38, 40).astype(np.uint8)
  (tree / "KA.AN1.1.tiff").write_bytes(palette_tiff(indices, colours))
  cv2.imwrite(str(tree / "KA.AN2.2.tiff"), colours[indices][..., ::-1])
  records = prepared("jaffe", tree).records
  expected = cv2.cvtColor(colours[indices], cv2.COLOR_RGB2GRAY)
  for row in (0, 1):
    np.testing.assert_allclose(decoded(records[row]).astype(int), expected.astype(int), atol=1)  # rounding


def test_ignores_suffixes_capitalization_and_subfolders(prepared, tree):
  plain = prepared("jaffe", tree)
  for number, path in enumerate(sorted(tree.iterdir())):
    subject, expression, serial, _ = path.name.split(".")
    name = [f"{subject}.{expression}.{serial}.tif", f"{subject}.{expression}.{serial}.TIFF", path.name.lower()][
      number % 3
    ]
    folder = tree / "jaffe" / "images" / subject / expression[:2] if number % 2 else tree / "jaffe"
    folder.mkdir(parents=True, exist_ok=True)
    path.rename(folder / name)
  (tree / "jaffe" / ".DS_Store").write_bytes(b"x")
  (tree / "__MACOSX").mkdir()
  (tree / "__MACOSX" / "._KA.AN1.1.tiff").write_bytes(b"x")
  (tree / ".trash").mkdir()
  (tree / ".trash" / "KA.AN1.1.tiff").write_bytes(b"x")
  found = prepared("jaffe", tree)
  for name in ("subject", "group"):
    assert found.column(name) == plain.column(name)
  assert [decoded(record).tobytes() for record in found.records] == [
    decoded(record).tobytes() for record in plain.records
  ]
  assert found.metadata["origin"]["path"] == str(tree / "jaffe")
  assert found.metadata["warnings"] == plain.metadata["warnings"]


def test_cyclic_link_is_followed_once(prepared, tree):
  (tree / "again").symlink_to(tree)
  assert len(prepared("jaffe", tree).records) == 42


def test_warnings_list_unusable_files_with_their_reason(prepared, tree):
  (tree / "KA.AN1.1.tiff").rename(tree / "KA.XX1.1.tiff")
  (tree / "KA.AN2.2.tiff").rename(tree / "ZZ.AN2.2.tiff")
  (tree / "KA.AN3.3.tiff").rename(tree / "KA.AN3.gif")
  (tree / "KA.DI1.4.tiff").write_bytes(b"")
  (tree / "KA.DI2.5.tiff").write_bytes((tree / "KA.DI2.5.tiff").read_bytes()[:-100])
  (tree / "KA.DI3.6.tiff").write_bytes(b"not an image")
  (tree / "KA.FE1.7.tiff").unlink()
  (tree / "KA.FE1.7.tiff").symlink_to(tree / "nowhere")
  shutil.copy(tree / "KA.FE2.8.tiff", tree / "KA.FE2.8.TIF")
  (tree / "papers").mkdir()
  (tree / "papers" / "README.txt").write_text("x")
  found = prepared("jaffe", tree)
  expected = {
    "unexpected file name, expected an image": ["KA.AN3.gif", "KA.XX1.1.tiff", "ZZ.AN2.2.tiff", "papers/README.txt"],
    "another image with the same name": ["KA.FE2.8.tiff"],
    "empty (0 bytes)": ["KA.DI1.4.tiff"],
    "not a readable image": ["KA.DI2.5.tiff", "KA.DI3.6.tiff"],
    "cannot be read: No such file": ["KA.FE1.7.tiff"],
  }
  for message, files in expected.items():
    line = found.warning(message)
    assert line.startswith(f"{len(files)} left out (")
    assert line.endswith(f"): {', '.join(files)}")
  assert len(found.records) == 42 - 7
  assert "angry 3 of 30, disgust 3 of 29" in found.warning("differ from the published dataset")


def write_published(folder):
  """Writes the published number of images of each expression, cycling through the ten subjects."""
  folder.mkdir()
  encoded = cv2.imencode(".tiff", np.full((8, 8), 99, np.uint8))[1].tobytes()
  counts = {"AN": 30, "DI": 29, "FE": 32, "HA": 31, "SA": 31, "SU": 30, "NE": 30}
  for code, count in counts.items():
    for number in range(count):
      (folder / f"{sorted(SUBJECTS)[number % 10]}.{code}{number // 10 + 1}.{number}.tiff").write_bytes(encoded)


def test_published_counts_differ_from_those_of_the_paper_in_two_classes(tmp_path):
  write_published(tmp_path / "manual")
  found = source.read(tmp_path / "manual")
  assert found.warnings == ()
  assert found.origin["contents"] == "213 images of 10 of the 10 people"
  header, *lines = (line.split(maxsplit=3) for line in found.comparison)
  assert header == ["class", "here", "table", "2 of the paper on separable convolutions"]
  assert lines == [
    ["angry", "30", "30"],
    ["disgust", "29", "29"],
    ["fear", "32", "32"],
    ["happy", "31", "31"],
    ["sad", "31", "32", "the published dataset has 31"],
    ["surprise", "30", "30"],
    ["neutral", "30", "29", "the published dataset has 30"],
    ["total", "213", "213"],
  ]


def test_warns_about_counts_other_than_the_published_ones(tmp_path):
  write_published(tmp_path / "manual")
  next((tmp_path / "manual").glob("KA.SU1.*.tiff")).unlink()
  found = source.read(tmp_path / "manual")
  (line,) = found.warnings
  assert "differ from the published dataset: surprise 29 of 30. Results on them" in line
  assert found.comparison[6].split() == ["surprise", "29", "30"]


def other_dataset(folder):
  layouts.write_tree("kdef", folder, subjects=1, scale=0.05)


def only_archive(folder):
  folder.mkdir()
  (folder / "jaffe.zip").write_bytes(b"x")


def unreadable(folder):
  layouts.write_tree("jaffe", folder, subjects=1, scale=0.05)
  for path in folder.iterdir():
    path.write_bytes(b"x")


def two_copies(folder):
  for name in ("a", "b"):
    layouts.write_tree("jaffe", folder / name, subjects=1, scale=0.05)


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (other_dataset, "does not contain JAFFE; expected images such as KA.AN1.39.tiff"),
    (only_archive, "does not contain JAFFE; .*; unpack jaffe.zip there first"),
    (unreadable, r"no usable image of JAFFE; left out: 21 not a readable image: unpack the dataset again"),
    (
      two_copies,
      "manual contains KA.AN1.1 twice, in .*/a and in .*/b: pass as --manual_dir the folder of a single copy of JAFFE",
    ),
  ],
)
def test_rejects_unusable_folders_with_an_error_of_one_line(tmp_path, write, message):
  write(tmp_path / "manual")
  with pytest.raises(UserError, match=message) as caught:
    builders.prepare("jaffe", str(tmp_path / "data"), str(tmp_path / "manual"))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()


def test_tfds_reads_the_dataset_without_this_package_or_tensorflow(prepared, tree, tmp_path):
  # Stored as PNG, because TensorFlow cannot decode TIFF.
  assert all(record["image"].startswith(b"\x89PNG") for record in prepared("jaffe", tree).records)
  program = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.data_source("jaffe", split="train", data_dir=sys.argv[1])
loaded = [name for name in ("fer_jax", "tensorflow") if name in sys.modules]
print(json.dumps([len(source), list(source[0]["image"].shape), int(source[0]["image"].sum()), loaded]))
"""
  process = subprocess.run(
    [sys.executable, "-c", program, tmp_path / "data"], check=True, capture_output=True, text=True, cwd=tmp_path
  )
  first = cv2.imread(str(tree / "KA.AN1.1.tiff"), cv2.IMREAD_GRAYSCALE)
  assert json.loads(process.stdout.splitlines()[-1]) == [42, [38, 38, 1], int(first.sum()), []]


class TestDrawn:
  def test_needs_no_files_and_has_210_images_of_ten_subjects(self, prepared):
    found = prepared("drawn_jaffe", None)
    assert found.class_names == SEVEN and found.counts() == dict.fromkeys(SEVEN, 30)
    assert set(found.column("subject")) == SUBJECTS
    assert {found.column("group").count(group) for group in found.column("group")} == {3}
    assert found.metadata["warnings"] == [] and found.metadata["comparison"] == []
    assert found.metadata["origin"]["form"] == "drawn"
    assert tempfile.gettempdir() not in json.dumps(found.metadata)

  def test_is_deterministic_and_prepared_by_the_first_load(self, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(DrawnJaffe, "PEOPLE", 2)
    monkeypatch.setattr(DrawnJaffe, "SCALE", 0.1)
    first, again = (prepared("drawn_jaffe", None) for _ in range(2))
    assert [record["image"] for record in first.records] == [record["image"] for record in again.records]
    loaded = arrays.load("drawn_jaffe", str(tmp_path / "elsewhere"), image_size=16, crop="fixed")
    assert "drawn_jaffe is not prepared yet" in capsys.readouterr().out
    assert loaded.image.shape == (42, 16, 16, 1)

  def test_expressions_are_recognizable_across_subjects(self, tmp_path, capsys):
    loaded = arrays.load("drawn_jaffe", str(tmp_path), image_size=48, crop="fixed")
    hog = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9).compute
    features = np.stack([hog(image[..., 0]).ravel() for image in loaded.image])
    correct = []
    for subject in SUBJECTS:
      others = loaded.subject != subject
      # Nearest class mean of the other subjects: means [7, features], distances [images, 7].
      means = np.stack([features[others & (loaded.label == label)].mean(axis=0) for label in range(7)])
      distance = np.linalg.norm(features[~others][:, None] - means[None], axis=2)
      correct.append(distance.argmin(axis=1) == loaded.label[~others])
    assert np.mean(correct) > 0.5
    capsys.readouterr()
