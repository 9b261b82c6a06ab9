import csv
import hashlib
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from fer_jax.data import arrays, builders
from fer_jax.data.audit import audit
from fer_jax.data.builders.fer2013 import ferplus
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.runtime.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[4]
DATA = REPOSITORY.parent / "shared" / "data" / "fer2013"
SPLITS = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}


@pytest.fixture
def manual_dir(tmp_path):
  folder = tmp_path / "manual"
  folder.mkdir()
  layouts.write_fer2013_csv(folder / "fer2013.csv", rows_per_split=9)
  layouts.write_ferplus_csv(folder / "fer2013new.csv", rows_per_split=9, nameless=(4,))
  return folder


@pytest.fixture
def data_dir(tmp_path):
  return tmp_path / "data"


def rows_of(path):
  """Returns the rows of a CSV file as dictionaries with stripped keys."""
  with path.open(newline="") as file:
    return [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(file)]


def records_of(data_dir):
  """Returns the splits and the records of all prepared rows: train, then validation, then test."""
  builder = builders.make_builder("fer2013", str(data_dir))
  splits = [split for split in SPLITS if split in builder.info.splits]
  pairs = [(split, record) for split in splits for record in builder.as_data_source(split)]
  return [split for split, _ in pairs], [record for _, record in pairs]


def assert_same(data_dir, rows):
  """Asserts that the prepared dataset equals the rows of its source; returns its records."""
  splits, records = records_of(data_dir)
  assert [SPLITS[split] for split in splits] == [row["Usage"] for row in rows]
  assert [record["index"] for record in records] == list(range(len(rows)))
  assert [record["label"] for record in records] == [int(row["emotion"]) for row in rows]
  expected = np.array([np.array(row["pixels"].split(), int).reshape(48, 48, 1) for row in rows])
  np.testing.assert_array_equal(np.stack([record["image"] for record in records]), expected)
  return records


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013/fer2013.csv", "icml_face_data.csv"])
def test_prepared_dataset_equals_the_source_row_by_row(tmp_path, data_dir, name):
  path = tmp_path / "manual" / name
  path.parent.mkdir(parents=True)
  write = layouts.write_icml_csv if "icml" in name else layouts.write_fer2013_csv
  write(path, rows_per_split=9)
  builders.prepare("fer2013", str(data_dir), str(tmp_path / "manual"))
  records = assert_same(data_dir, rows_of(path))
  assert not np.any([record["votes"] for record in records])


def test_ignores_line_endings_blank_lines_quotes_and_a_byte_order_mark(manual_dir, data_dir):
  path = manual_dir / "fer2013.csv"
  rows = rows_of(path)
  text = path.read_text().replace(" ", "  ", 5).splitlines()
  text[1] = ",".join(f'"{field}"' for field in text[1].split(","))
  path.write_bytes(("\ufeff" + "\r\n".join([*text[:3], "", *text[3:], ""])).encode())
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  assert_same(data_dir, rows)


def test_source_order_is_kept_when_the_splits_are_not_in_order(manual_dir, data_dir):
  (manual_dir / "fer2013new.csv").unlink()
  path = manual_dir / "fer2013.csv"
  header, *lines = path.read_text().splitlines()
  path.write_text("\n".join([header, *lines[::-1]]))
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  splits, records = records_of(data_dir)
  rows = rows_of(path)
  for split, record in zip(splits, records, strict=True):
    row = rows[record["index"]]
    assert SPLITS[split] == row["Usage"]
    assert " ".join(map(str, record["image"].ravel())) == row["pixels"]
  assert [record["index"] for record in records] == [*range(18, 27), *range(9, 18), *range(9)]


def test_votes_belong_to_the_same_row(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  votes = [[int(row[name]) for name in ferplus.COLUMNS] for row in rows_of(manual_dir / "fer2013new.csv")]
  np.testing.assert_array_equal([record["votes"] for record in records_of(data_dir)[1]], votes)


def test_only_exact_duplicates_share_a_group(manual_dir, data_dir):
  path = manual_dir / "fer2013.csv"
  lines = path.read_text().splitlines()
  lines[20] = ",".join([lines[20].split(",")[0], lines[3].split(",")[1], lines[20].split(",")[2]])
  path.write_text("\n".join(lines))
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  groups = [record["group"] for record in records_of(data_dir)[1]]
  assert groups[19] == groups[2]
  assert len(set(groups)) == len(groups) - 1


def test_metadata_contains_the_origin(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  metadata = builders.make_builder("fer2013", str(data_dir)).info.metadata
  assert metadata["origin"]["md5"] == hashlib.md5((manual_dir / "fer2013.csv").read_bytes()).hexdigest()
  assert metadata["origin"]["path"] == str(manual_dir / "fer2013.csv")
  assert len(metadata["origin"]["ferplus_sha256"]) == 64
  (warning,) = metadata["warnings"]
  assert "Training 9 of 28709, PublicTest 9 of 3589, PrivateTest 9 of 3589" in warning


def test_kaggle_folders_have_only_train_and_test(tmp_path, data_dir):
  folder = tmp_path / "manual"
  layouts.write_kaggle_folders(folder, per_class=2)
  (folder / "test" / "happy" / "Thumbs.db").write_bytes(b"")
  (folder / "test" / ".hidden").mkdir()
  grey = cv2.imread(str(next((folder / "train" / "angry").iterdir())), cv2.IMREAD_GRAYSCALE)
  cv2.imwrite(str(folder / "train" / "angry" / "saved_as_colour.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
  builder = builders.prepare("fer2013", str(data_dir), str(folder))
  splits, records = records_of(data_dir)
  assert {split: splits.count(split) for split in splits} == {"train": 15, "test": 28}
  names = builder.info.features["label"].names
  assert names == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
  files = [path for split in ("train", "test") for name in names for path in sorted((folder / split / name).iterdir())]
  files = [path for path in files if path.suffix != ".db"]
  for path, record in zip(files, records, strict=True):
    assert names[record["label"]] == path.parent.name
    np.testing.assert_array_equal(record["image"][:, :, 0], cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
  assert "does not distinguish public from private test images" in builder.info.metadata["warnings"][0]
  assert "1 files that are not images are left out: test/happy/Thumbs.db" in builder.info.metadata["warnings"][1]


def test_data_dir_contains_only_the_dataset(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  assert [path.relative_to(data_dir).as_posix() for path in data_dir.glob("*")] == ["fer2013"]
  assert [path.name for path in (data_dir / "fer2013").iterdir()] == ["1.0.0"]


def test_prepared_dataset_is_replaced_only_with_overwrite(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  (manual_dir / "fer2013new.csv").unlink()
  layouts.write_fer2013_csv(manual_dir / "fer2013.csv", rows_per_split=7)
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  builders.prepare("fer2013", str(data_dir))
  assert len(records_of(data_dir)[1]) == 27
  builders.prepare("fer2013", str(data_dir), str(manual_dir), overwrite=True)
  assert_same(data_dir, rows_of(manual_dir / "fer2013.csv"))


def test_overwrite_with_invalid_files_keeps_the_old_dataset(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  rows = rows_of(manual_dir / "fer2013.csv")
  (manual_dir / "fer2013.csv").write_text("emotion,pixels,Usage\n1,2,3\n")
  with pytest.raises(UserError, match="row 2"):
    builders.prepare("fer2013", str(data_dir), str(manual_dir), overwrite=True)
  assert_same(data_dir, rows)
  assert [path.name for path in data_dir.iterdir()] == ["fer2013"]


def test_interrupted_write_leaves_no_files(manual_dir, data_dir, monkeypatch):
  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(cv2, "imencode", stop)
  with pytest.raises(KeyboardInterrupt):
    builders.prepare("fer2013", str(data_dir), str(manual_dir))
  assert not data_dir.exists()


def test_rejects_a_data_dir_that_cannot_be_written(manual_dir, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write a dataset into .*/file/data .*--data_dir"):
    builders.prepare("fer2013", str(tmp_path / "file" / "data"), str(manual_dir))


def test_manual_dir_is_required_only_where_files_are_needed(data_dir):
  with pytest.raises(UserError, match=r"fer2013 needs --manual_dir=DIR.*fer2013\.csv"):
    builders.prepare("fer2013", str(data_dir))
  assert builders.required_files("synthetic_faces") == ""


def test_error_for_an_unknown_dataset_lists_the_known_ones():
  with pytest.raises(
    UserError, match="'affectnet' is unknown; expected one of ck_plus, drawn_jaffe, drawn_kdef_ck_plus, "
  ):
    builders.make_builder("affectnet")


def test_data_dir_defaults_to_that_of_tfds_and_expands_a_tilde(monkeypatch, tmp_path):
  assert builders.make_builder("fer2013").data_dir.startswith(str(tfds.core.constants.DATA_DIR))
  monkeypatch.setenv("HOME", str(tmp_path))
  assert builders.make_builder("fer2013", "~/data").data_dir == str(tmp_path / "data" / "fer2013" / "1.0.0")


def test_tfds_reads_the_dataset_without_this_package_or_tensorflow(manual_dir, data_dir):
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  program = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.data_source("fer2013", split="test", data_dir=sys.argv[1])
builder = tfds.builder("fer2013", data_dir=sys.argv[1])
loaded = [name for name in ("fer_jax", "tensorflow") if name in sys.modules]
print(json.dumps([len(source), source[0]["image"].ravel().tolist(), list(builder.info.splits), loaded]))
"""
  process = subprocess.run(
    [sys.executable, "-c", program, data_dir], check=True, capture_output=True, text=True, cwd=data_dir
  )
  length, pixels, splits, loaded = json.loads(process.stdout.splitlines()[-1])
  assert length == 9
  assert pixels == [int(word) for word in rows_of(manual_dir / "fer2013.csv")[18]["pixels"].split()]
  assert sorted(splits) == sorted(SPLITS)
  assert loaded == []


def test_tfds_load_reads_the_dataset(manual_dir, data_dir):
  pytest.importorskip("tensorflow")
  builders.prepare("fer2013", str(data_dir), str(manual_dir))
  loaded = tfds.load("fer2013", split="train", data_dir=data_dir)
  assert [int(record["index"]) for record in loaded.as_numpy_iterator()] == list(range(9))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "make_csv.py").is_file(), reason=f"the real FER2013 is not in {DATA}")
def test_counts_duplicates_and_votes_of_the_real_fer2013(tmp_path):
  subprocess.run([sys.executable, DATA / "make_csv.py", tmp_path, "--ferplus"], check=True, capture_output=True)
  builder = builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path))
  assert builder.info.metadata["warnings"] == []
  dataset = arrays.load("fer2013", str(tmp_path / "data"))
  counts = {
    split: [int((dataset.label[dataset.rows(split)] == label).sum()) for label in range(7)] for split in arrays.SPLITS
  }
  assert counts == {
    "train": [3995, 436, 4097, 7215, 4830, 3171, 4965],
    "validation": [467, 56, 496, 895, 653, 415, 607],
    "test": [491, 55, 528, 879, 594, 416, 626],
  }
  assert audit(dataset) == [
    "34034 distinct images in 35887 rows: 1516 appear more than once",
    "57 of these groups of duplicates have conflicting labels",
    "280 of the 3589 validation images also appear in train",
    "288 of the 3589 test images also appear in train",
    "12 images are constant (all pixels equal)",
  ]
  assert len(set(dataset.group.tolist())) == 34034
  ferplus = arrays.load("fer2013", str(tmp_path / "data"), labels="ferplus_hard")
  assert len(dataset) - len(ferplus) == 399
