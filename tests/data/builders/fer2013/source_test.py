"""Invalid raw files of FER2013: each error is one line that names the file and the row."""

import cv2
import numpy as np
import pytest

from fer_jax.data import builders
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

ROWS_PER_SPLIT = 7
LAST_ROW = 1 + 3 * ROWS_PER_SPLIT


@pytest.fixture
def csv_folder(tmp_path):
  folder = tmp_path / "manual"
  folder.mkdir()
  layouts.write_fer2013_csv(folder / "fer2013.csv", ROWS_PER_SPLIT)
  layouts.write_ferplus_csv(folder / "fer2013new.csv", ROWS_PER_SPLIT)
  return folder


@pytest.fixture
def image_folder(tmp_path):
  layouts.write_kaggle_folders(tmp_path / "manual", per_class=1)
  return tmp_path / "manual"


def error_message(manual_dir, data_dir):
  """Returns the message of the failed preparation, which must leave no files."""
  data_dir.mkdir()
  (data_dir / "existing.txt").write_text("content")
  for target in (data_dir, data_dir.parent / "new" / "data"):
    with pytest.raises(UserError) as caught:
      builders.prepare("fer2013", str(target), str(manual_dir))
  assert [path.name for path in data_dir.iterdir()] == ["existing.txt"]
  assert not (data_dir.parent / "new").exists()
  assert "\n" not in str(caught.value)
  return str(caught.value)


def replace_row(path, row, text):
  """Replaces a row (1 is the header), or appends one."""
  lines = path.read_text().splitlines()
  lines[row - 1 : row] = [text]
  path.write_text("\n".join(lines) + "\n")


def fields(path, row):
  return path.read_text().splitlines()[row - 1].split(",")


@pytest.mark.parametrize(
  ("position", "word", "expected"),
  [
    (0, "256", "pixel 1 is '256'"),
    (2303, "-1", "pixel 2304 is '-1'"),
    (100, "x", "pixel 101 is 'x'"),
    (100, "1.5", "pixel 101 is '1.5'"),
    (100, "٣", "pixel 101 is '٣'"),  # A decimal digit according to str.isdecimal.
    (100, "9" * 30, "pixel 101 is '9999"),
    (100, "", "2303 pixels, expected 2304"),
    (100, "1 2", "2305 pixels, expected 2304"),
  ],
)
def test_rejects_an_invalid_pixel(csv_folder, tmp_path, position, word, expected):
  label, pixels, usage = fields(csv_folder / "fer2013.csv", 5)
  words = pixels.split()
  words[position] = word
  replace_row(csv_folder / "fer2013.csv", 5, f"{label},{' '.join(words)},{usage}")
  message = error_message(csv_folder, tmp_path / "data")
  assert f"{csv_folder / 'fer2013.csv'}, row 5: {expected}" in message


@pytest.mark.parametrize(
  ("column", "value", "expected"),
  [
    (0, "7", "label (column emotion) is '7', expected an integer from 0 to 6"),
    (0, "-1", "label (column emotion) is '-1'"),
    (0, "", "label (column emotion) is ''"),
    (0, "angry", "label (column emotion) is 'angry'"),
    (1, "", "0 pixels, expected 2304"),
    (2, "Testing", "Usage is 'Testing', expected one of Training, PublicTest, PrivateTest"),
    (2, "Training,1", "4 columns, expected 3"),
  ],
)
def test_rejects_an_invalid_field(csv_folder, tmp_path, column, value, expected):
  row = fields(csv_folder / "fer2013.csv", 9)
  row[column] = value
  replace_row(csv_folder / "fer2013.csv", 9, ",".join(row))
  message = error_message(csv_folder, tmp_path / "data")
  assert f"{csv_folder / 'fer2013.csv'}, row 9: " in message
  assert expected in message


@pytest.mark.parametrize(("end", "expected"), [(1, "1 columns"), (500, "2 columns"), (-3, "Usage is 'PrivateT'")])
def test_rejects_a_file_truncated_inside_a_row(csv_folder, tmp_path, end, expected):
  path = csv_folder / "fer2013.csv"
  *others, last = path.read_text().splitlines()
  path.write_text("\n".join([*others, last[:end]]))
  message = error_message(csv_folder, tmp_path / "data")
  assert f"{path}, row {LAST_ROW}: {expected}" in message


@pytest.mark.parametrize(
  ("kept", "expected"),
  [
    (1, "a header but no rows"),
    (8, "PublicTest or PrivateTest"),
    (15, "(the last is row 15) has Usage PrivateTest"),
  ],
)
def test_rejects_a_file_truncated_between_rows(csv_folder, tmp_path, kept, expected):
  path = csv_folder / "fer2013.csv"
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
  message = error_message(csv_folder, tmp_path / "data")
  assert str(path) in message
  assert expected in message


@pytest.mark.parametrize("column", ["emotion", "pixels", "Usage"])
def test_rejects_a_header_without_a_column(csv_folder, tmp_path, column):
  path = csv_folder / "fer2013.csv"
  path.write_text(path.read_text().replace(column, "other", 1))
  assert f"{csv_folder / 'fer2013.csv'}, row 1: the header lacks {column}" in error_message(
    csv_folder, tmp_path / "data"
  )


def test_rejects_an_empty_file(csv_folder, tmp_path):
  (csv_folder / "fer2013.csv").write_bytes(b"")
  assert f"{csv_folder / 'fer2013.csv'} is empty (0 bytes)" in error_message(csv_folder, tmp_path / "data")


def test_rejects_a_file_that_is_not_csv(csv_folder, tmp_path):
  (csv_folder / "fer2013.csv").write_bytes(bytes(range(256)) * 4000)
  assert f"{csv_folder / 'fer2013.csv'}, row " in error_message(csv_folder, tmp_path / "data")


@pytest.mark.parametrize(
  ("row", "text", "expected"),
  [
    (1, "Usage,Image name,neutral", "row 1: the header lacks happiness, surprise, sadness, anger, disgust"),
    (
      3,
      "PublicTest,a.png,4,0,0,1,3,2,0,0,0,0",
      "row 3: Usage is 'PublicTest', expected 'Training' as in the FER2013 file next to it",
    ),
    (4, "Training,a.png,4,0,0,x,3,2,0,0,0,0", "row 4: column sadness is 'x', expected an integer number of votes"),
    (4, "Training,a.png,4,0,0,-1,3,2,0,0,0,0", "row 4: column sadness is '-1', expected an integer number of votes"),
    (4, "Training,a.png,4,0,0,300,3,2,0,0,0,0", "row 4: column sadness is '300', expected an integer number of votes"),
    (4, "Training,a.png,4,0,0,1,3,2", "row 4: 8 columns, expected 12"),
    (LAST_ROW, "", f" has {3 * ROWS_PER_SPLIT - 1} rows, expected {3 * ROWS_PER_SPLIT}"),
    (LAST_ROW + 1, "PrivateTest,a.png,4,0,0,1,3,2,0,0,0,0", f" has {3 * ROWS_PER_SPLIT + 1} rows, expected"),
  ],
)
def test_rejects_invalid_ferplus_votes(csv_folder, tmp_path, row, text, expected):
  path = csv_folder / "fer2013new.csv"
  replace_row(path, row, text)
  message = error_message(csv_folder, tmp_path / "data")
  assert str(path) in message
  assert expected in message


def test_rejects_a_class_folder_without_images(image_folder, tmp_path):
  for path in (image_folder / "test" / "fear").iterdir():
    path.unlink()
  assert f"{image_folder / 'test' / 'fear'} contains no images, expected .jpg or .png" in error_message(
    image_folder, tmp_path / "data"
  )


@pytest.mark.parametrize("other", ["fear2", None])
def test_rejects_a_missing_or_unknown_class_folder(image_folder, tmp_path, other):
  if other is None:
    (image_folder / "train" / "fear").rename(tmp_path / "away")
    expected = f"{image_folder / 'train' / 'fear'} is missing"
  else:
    (image_folder / "train" / other).mkdir()
    expected = f"{image_folder / 'train' / other} is not a class of FER2013"
  assert expected in error_message(image_folder, tmp_path / "data")


def test_a_validation_folder_is_named_and_not_skipped(image_folder, tmp_path):
  (image_folder / "Val" / "happy").mkdir(parents=True)
  message = error_message(image_folder, tmp_path / "data")
  assert f"{image_folder / 'Val'}: Kaggle's image form of FER2013 has only train/ and test/" in message
  assert f"--dataset=image_folder/NAME --manual_dir={image_folder}" in message


def test_rejects_folders_without_class_folders(tmp_path):
  for split in ("train", "test"):
    (tmp_path / "manual" / split).mkdir(parents=True)
  assert f"{tmp_path / 'manual' / 'train'} contains no folders" in error_message(tmp_path / "manual", tmp_path / "data")


@pytest.mark.parametrize(
  ("name", "content", "expected"),
  [
    ("empty.jpg", b"", "empty (0 bytes)"),
    ("text.png", b"not an image", "not a readable image"),
    ("large.png", cv2.imencode(".png", np.zeros((50, 48), np.uint8))[1].tobytes(), "is 48x50 grey"),
    (
      "red.png",
      cv2.imencode(".png", np.eye(3, dtype=np.uint8)[[[2] * 48] * 48])[1].tobytes(),
      "48x48 colour",
    ),
    (
      "cut.jpg",
      cv2.imencode(".jpg", np.eye(48, dtype=np.uint8) * 200)[1].tobytes()[:-100],
      "not a readable image",
    ),
    (
      "cut.png",
      cv2.imencode(".png", np.eye(48, dtype=np.uint8) * 200)[1].tobytes()[:-60],
      "not a readable image",
    ),
  ],
)
def test_rejects_an_invalid_image(image_folder, tmp_path, name, content, expected):
  (image_folder / "test" / "sad" / name).write_bytes(content)
  message = error_message(image_folder, tmp_path / "data")
  assert str(image_folder / "test" / "sad" / name) in message
  assert expected in message


def test_error_for_an_unrecognized_folder_lists_the_expected_files(tmp_path):
  (tmp_path / "manual" / "train").mkdir(parents=True)
  (tmp_path / "manual" / "archive.zip").write_bytes(b"")
  message = error_message(tmp_path / "manual", tmp_path / "data")
  for name in (
    str(tmp_path / "manual"),
    "fer2013.csv",
    "icml_face_data.csv",
    "train/<class>/",
    "unpack archive.zip",
  ):
    assert name in message


@pytest.mark.parametrize("fault", ["does not exist", "is empty", "is a file"])
def test_rejects_a_manual_dir_that_is_missing_empty_or_a_file(tmp_path, fault):
  manual_dir = tmp_path / "manual"
  if fault == "is empty":
    manual_dir.mkdir()
  elif fault == "is a file":
    manual_dir.write_text("")
  message = error_message(manual_dir, tmp_path / "data")
  assert f"--manual_dir={manual_dir} {fault}" in message
  assert "fer2013.csv" in message
