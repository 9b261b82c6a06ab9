"""Images in folders: layouts, subjects, other files, and errors."""

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_jax.data import arrays, builders
from fer_jax.data.builders.image_folder import source
from fer_jax.runtime.errors import UserError

RANDOM = np.random.default_rng(0)


def write(path, image=None):
  """Writes an image, by default of noise, and creates its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = RANDOM.integers(60, 255, (30, 24), np.uint8) if image is None else image
  file = io.BytesIO()
  Image.fromarray(image).save(file, {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix, path.suffix[1:].upper()))
  path.write_bytes(file.getvalue())


@pytest.fixture
def folder(tmp_path):
  """Folder of the classes `calm` and `wild`, with two images of each of three people."""
  for name in ("calm", "wild"):
    for person in ("ann", "bob", "cid"):
      write(tmp_path / "own" / name / f"{person}_1.png")
      write(tmp_path / "own" / name / person / f"{person}_2.webp")
  return tmp_path / "own"


def prepare(folder, tmp_path, name="image_folder/own", **options):
  return builders.prepare(name, str(tmp_path / "data"), str(folder), **options)


def test_classes_are_folders(folder, tmp_path):
  prepare(folder, tmp_path)
  loaded = arrays.load("image_folder/own", str(tmp_path / "data"))
  assert loaded.class_names == ("calm", "wild")
  assert np.bincount(loaded.label).tolist() == [6, 6]
  assert set(loaded.split) == {"train"}
  assert set(loaded.subject) == {""}
  assert loaded.image.shape == (12, 48, 48, 1)
  assert len(set(loaded.group)) == 12


def test_subjects_are_found_by_a_pattern(folder, tmp_path):
  prepare(folder, tmp_path, subjects=r"([a-z]+)_\d")
  loaded = arrays.load("image_folder/own", str(tmp_path / "data"))
  assert sorted(set(loaded.subject)) == ["ann", "bob", "cid"]


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_splits_are_folders(tmp_path, validation):
  for split, classes in {"train": ("a", "b"), validation: ("a",), "test": ("b", "c")}.items():
    for name in classes:
      write(tmp_path / "own" / split / name / "1.jpg")
  prepare(tmp_path / "own", tmp_path)
  loaded = arrays.load("image_folder/own", str(tmp_path / "data"))
  assert loaded.class_names == ("a", "b", "c")
  assert {split: loaded.label[loaded.rows(split)].tolist() for split in arrays.SPLITS} == {
    "train": [0, 1],
    "validation": [0],
    "test": [1, 2],
  }


def test_several_folders_are_prepared_next_to_each_other(folder, tmp_path):
  write(tmp_path / "other" / "x" / "1.png")
  write(tmp_path / "other" / "y" / "1.png")
  prepare(folder, tmp_path)
  prepare(tmp_path / "other", tmp_path, "image_folder/other")
  data = str(tmp_path / "data")
  assert arrays.load("image_folder/own", data).class_names == ("calm", "wild")
  assert arrays.load("image_folder/other", data).class_names == ("x", "y")


def test_photographs_are_cropped(folder, tmp_path):
  prepare(folder, tmp_path, framing="photograph")
  loaded = arrays.load("image_folder/own", str(tmp_path / "data"), image_size=24)
  assert loaded.crop == "detector"
  assert "no face was found in 12 of 12 images: fixed square used instead" in loaded.notes[-1]
  # Without a face, the central square of the image is used.
  image = cv2.imread(str(folder / "calm" / "ann_1.png"), cv2.IMREAD_GRAYSCALE)
  assert any((loaded.image[row, ..., 0] == image[3:27]).all() for row in range(len(loaded)))


def test_training_and_prediction_decode_the_same_pixels(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # orientation
  for name in ("a", "b"):
    path = tmp_path / "own" / name / "1.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.linspace(60, 255, 48 * 48, dtype=np.uint8).reshape(48, 48)).save(path, exif=exif, quality=100)
  prepare(tmp_path / "own", tmp_path)
  loaded = arrays.load("image_folder/own", str(tmp_path / "data"))
  np.testing.assert_array_equal(loaded.image[0, ..., 0], source.images.read_image(tmp_path / "own" / "a" / "1.jpg"))
  assert loaded.image[0, :, 0, 0].max() - loaded.image[0, :, 0, 0].min() < 12  # rotated: rows have one grey value each


def test_other_files_are_named(folder, tmp_path):
  (folder / "calm" / "notes.txt").write_text("x")
  (folder / "calm" / "Thumbs.db").write_text("x")
  (folder / "wild" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
  write(folder / "stray.png")
  builder = prepare(folder, tmp_path)
  warnings = "\n".join(builder.info.metadata["warnings"])
  assert "1 left out (not the name of an image): calm/notes.txt" in warnings
  assert "1 left out (not in the folder of a class): stray.png" in warnings
  assert "1 left out (not a readable image): wild/torn.jpg" in warnings
  assert "Thumbs" not in warnings


def test_names_that_cannot_be_stored_and_pipes_are_left_out(folder, tmp_path):
  write(folder / "stray.png")
  os.rename(folder / "stray.png", os.fsencode(folder / "calm") + b"/caf\xe9.png")
  os.mkfifo(folder / "wild" / "pipe.png")
  write(folder / "__MACOSX" / "._1.png")
  warnings = "\n".join(prepare(folder, tmp_path).info.metadata["warnings"])
  assert r"1 left out (the name is not UTF-8): calm/caf\udce9.png" in warnings
  assert "1 left out (not a regular file): wild/pipe.png" in warnings
  assert "MACOSX" not in warnings


@pytest.mark.parametrize(
  ("paths", "options", "message"),
  [
    (["a/1.png"], {}, "contains only the class a; expected two classes or more in DIR/<class>"),
    (["1.png"], {}, "contains no folders; expected two classes or more"),
    (["train/a/1.png", "test/b/1.png", "extra/a/1.png"], {}, "extra: is no split, but lies next to folders of splits"),
    (["train/a/1.png", "val/b/1.png", "valid/a/1.png"], {}, "are both the split validation; expected one folder"),
    (["Angry/1.png", "angry/1.png"], {}, "the classes Angry and angry differ only in case; expected one folder"),
    (["a/1.png", "b\udce8/1.png"], {}, r"the name of the class b\\udce8 is not UTF-8; rename the folder"),
    (["a/1.png", "b/1.txt"], {}, "the class b has no images; expected files such as"),
    (
      ["a/1.png", "b/x_1.png"],
      {"subjects": r"(\w)_"},
      "finds no subject in a/1.png; expected one in every",
    ),
    (["a/1.png", "b/1.png"], {"subjects": r"\w_"}, "has no parentheses around the subject; expected one such as"),
    (["a/1.png", "b/1.png"], {"subjects": "("}, "not a regular expression"),
  ],
)
def test_errors_name_the_folder_and_leave_nothing(tmp_path, paths, options, message):
  for path in paths:
    if path.endswith(".png"):
      write(tmp_path / "own" / path)
    else:
      (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / "own" / path).write_text("x")
  with pytest.raises(UserError, match=message) as caught:
    prepare(tmp_path / "own", tmp_path, **options)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "data").exists()


def test_names_and_options_are_checked(folder, tmp_path):
  with pytest.raises(UserError, match="image_folder/../x': expected letters, digits, - and _ after the slash"):
    builders.make_builder("image_folder/../x", str(tmp_path))
  with pytest.raises(UserError, match="--subjects applies to image_folder, not to jaffe"):
    builders.make_builder("jaffe", str(tmp_path), subjects="(x)")
  with pytest.raises(
    UserError,
    match="image_folder/own is not prepared in .*: run `python -m .*` with a folder DIR that contains your images as",
  ):
    arrays.load("image_folder/own", str(tmp_path))
