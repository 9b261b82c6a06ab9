import concurrent.futures
import csv

import cv2
import numpy as np
import pytest

from fer_jax.data import arrays, builders, decoding
from fer_jax.data.builders.synthetic_faces import layouts
from fer_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig
from fer_jax.runtime.errors import UserError

ROWS = 9
FACELESS_ROW = 4  # Row in which all votes are for "no face" (NF).


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("manual")
  layouts.write_fer2013_csv(folder / "fer2013.csv", ROWS)
  layouts.write_ferplus_csv(folder / "fer2013new.csv", ROWS, nameless=(FACELESS_ROW,))
  return folder


@pytest.fixture
def data_dir(tmp_path, manual_dir):
  builders.prepare("fer2013", str(tmp_path / "data"), str(manual_dir))
  return str(tmp_path / "data")


@pytest.fixture
def cache(data_dir):
  """Folder of the cache that the first load writes."""
  arrays.load("fer2013", data_dir)
  builder = builders.make_builder("fer2013", data_dir)
  (folder,) = builder.data_path.joinpath("arrays").iterdir()
  return folder


@pytest.fixture
def small_synthetic_faces(monkeypatch):
  """Reduces the built-in dataset to 28 faces."""
  config = SyntheticFacesConfig(name="48px", size=48, subjects=(2, 1, 1), repetitions=1)
  monkeypatch.setattr(SyntheticFaces, "BUILDER_CONFIGS", [config])


def source_rows(manual_dir):
  with (manual_dir / "fer2013.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def source_images(manual_dir):
  return np.array([row["pixels"].split() for row in source_rows(manual_dir)], np.uint8).reshape(-1, 48, 48, 1)


def write_votes(folder, votes_of_row):
  """Replaces the votes of some rows of fer2013new.csv."""
  path = folder / "fer2013new.csv"
  lines = path.read_text().splitlines()
  for row, votes in votes_of_row.items():
    lines[row + 1] = ",".join([lines[row + 1].split(",")[0], "", *map(str, votes)])
  path.write_text("\n".join(lines))


def test_arrays_equal_the_source(data_dir, manual_dir):
  loaded = arrays.load("fer2013", data_dir)
  np.testing.assert_array_equal(loaded.image, source_images(manual_dir))
  assert loaded.image.dtype == np.uint8
  assert loaded.label.dtype == np.int32
  assert loaded.group.dtype == np.int32
  assert loaded.label.tolist() == [int(row["emotion"]) for row in source_rows(manual_dir)]
  assert loaded.split.tolist() == ["train"] * ROWS + ["validation"] * ROWS + ["test"] * ROWS
  assert loaded.group.tolist() == list(range(3 * ROWS))
  assert set(loaded.subject.tolist()) == {""}
  assert loaded.class_names == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
  assert loaded.soft_label is None
  assert "not the original" in loaded.notes[0]


def test_images_are_resized_and_cached_by_size(data_dir, manual_dir):
  for size, interpolation in ((24, cv2.INTER_AREA), (64, cv2.INTER_LINEAR)):
    expected = [cv2.resize(image, (size, size), interpolation=interpolation) for image in source_images(manual_dir)]
    for _ in range(2):
      loaded = arrays.load("fer2013", data_dir, image_size=size)
      np.testing.assert_array_equal(loaded.image[..., 0], expected)
  assert arrays.load("fer2013", data_dir).image.shape[1:] == (48, 48, 1)


def test_second_load_memory_maps_the_cache_and_decodes_nothing(data_dir, manual_dir, monkeypatch):
  arrays.load("fer2013", data_dir)
  monkeypatch.setattr(decoding, "decode", None)
  loaded = arrays.load("fer2013", data_dir)
  assert isinstance(loaded.image, np.memmap)
  assert not loaded.image.flags.writeable
  np.testing.assert_array_equal(loaded.image, source_images(manual_dir))


@pytest.mark.parametrize(
  ("name", "damage"),
  [
    ("image.npy", lambda data: data[:-1000]),
    ("image.npy", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
    ("label.npy", lambda _: b""),
    ("split.npy", None),
    ("contents.json", None),
    ("contents.json", lambda data: data[:-5]),
    ("contents.json", lambda _: b"[]"),
    ("contents.json", lambda data: data.replace(b'"format": ', b'"format": 9')),
  ],
)
def test_damaged_cache_is_rebuilt(cache, data_dir, manual_dir, name, damage):
  contents = (cache / "contents.json").read_text()
  if damage is None:
    (cache / name).unlink()
  else:
    (cache / name).write_bytes(damage((cache / name).read_bytes()))
  for _ in range(2):
    loaded = arrays.load("fer2013", data_dir)
    assert isinstance(loaded.image, np.memmap)
    np.testing.assert_array_equal(loaded.image, source_images(manual_dir))
    assert loaded.label.tolist() == [int(row["emotion"]) for row in source_rows(manual_dir)]
  assert list(cache.parent.iterdir()) == [cache]
  assert (cache / "contents.json").read_text() == contents


def test_concurrent_loads_agree(data_dir, manual_dir):
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    loads = list(pool.map(lambda _: arrays.load("fer2013", data_dir), range(16)))
  for loaded in loads:
    np.testing.assert_array_equal(loaded.image, source_images(manual_dir))
  folder = builders.make_builder("fer2013", data_dir).data_path / "arrays"
  assert [path.name for path in folder.iterdir()] == ["48x48x1"]


def test_loads_without_a_cache_where_it_cannot_be_written(data_dir, manual_dir, capsys):
  builders.make_builder("fer2013", data_dir).data_path.joinpath("arrays").write_text("a file at the path of the folder")
  loaded = arrays.load("fer2013", data_dir)
  np.testing.assert_array_equal(loaded.image, source_images(manual_dir))
  assert "cannot cache the arrays" in capsys.readouterr().out


def test_overwriting_the_dataset_discards_the_cache(cache, data_dir, tmp_path):
  layouts.write_fer2013_csv(tmp_path / "fer2013.csv", 7, seed=1)
  builders.prepare("fer2013", data_dir, str(tmp_path), overwrite=True)
  np.testing.assert_array_equal(arrays.load("fer2013", data_dir).image, source_images(tmp_path))


def test_ferplus_hard_labels_have_the_most_votes_and_leave_out_rows_without_a_face(data_dir, manual_dir):
  loaded = arrays.load("fer2013", data_dir, labels="ferplus_hard")
  expected = np.delete([int(row["emotion"]) for row in source_rows(manual_dir)], FACELESS_ROW)
  assert loaded.label.tolist() == expected.tolist()
  assert loaded.class_names[7] == "contempt"
  assert loaded.num_classes == 8
  assert loaded.soft_label is None
  np.testing.assert_array_equal(loaded.image, np.delete(source_images(manual_dir), FACELESS_ROW, axis=0))
  assert [len(loaded.rows(split)) for split in arrays.SPLITS] == [ROWS - 1, ROWS, ROWS]
  assert "1 rows left out (1 of train, 0 of validation, 0 of test)" in loaded.notes[-1]


#                    neutral happiness surprise sadness anger disgust fear contempt unknown NF
CONTEMPT_LEADS = (1, 0, 0, 0, 2, 0, 0, 6, 1, 0)
UNKNOWN_LEADS = (0, 0, 0, 0, 4, 0, 0, 0, 5, 1)
UNKNOWN_EQUALS_ANGER = (0, 0, 0, 0, 5, 0, 0, 0, 5, 0)
SURPRISE_EQUALS_HAPPY = (0, 4, 4, 2, 0, 0, 0, 0, 0, 0)
NO_VOTES = (0,) * 10


def test_ferplus_ties_contempt_unknown_and_soft_labels(tmp_path):
  layouts.write_fer2013_csv(tmp_path / "fer2013.csv", ROWS)
  layouts.write_ferplus_csv(tmp_path / "fer2013new.csv", ROWS)
  votes = dict(
    enumerate(
      (
        CONTEMPT_LEADS,
        UNKNOWN_LEADS,
        NO_VOTES,
        UNKNOWN_EQUALS_ANGER,
        SURPRISE_EQUALS_HAPPY,
        SURPRISE_EQUALS_HAPPY,
      )
    )
  )
  write_votes(tmp_path, votes)
  builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path))
  hard = arrays.load("fer2013", str(tmp_path / "data"), labels="ferplus_hard")
  soft = arrays.load("fer2013", str(tmp_path / "data"), labels="ferplus_soft")
  # Rows 1 and 2 are left out. In rows 4 and 5, happy (3) and surprise (5) are tied: row 5 keeps its label in FER2013,
  # surprise; row 4 is sad there, so it gets the first of the tied classes.
  assert hard.label[:4].tolist() == [7, 0, 3, 5]
  assert soft.label.tolist() == hard.label.tolist()
  expected = [
    [2 / 9, 0, 0, 0, 0, 0, 1 / 9, 6 / 9],
    [1, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0.4, 0.2, 0.4, 0, 0],
  ]
  np.testing.assert_allclose(soft.soft_label[:3], expected, rtol=1e-6)
  np.testing.assert_allclose(soft.soft_label.sum(axis=1), 1, rtol=1e-6)
  assert soft.soft_label.dtype == np.float32
  assert len(soft) == len(hard) == 3 * ROWS - 2
  original = arrays.load("fer2013", str(tmp_path / "data"))
  blend = arrays.load("fer2013", str(tmp_path / "data"), labels="ferplus_blend")
  assert (blend.class_names, blend.label.tolist()) == (original.class_names, original.label.tolist())
  # 0.7 times the original label plus 0.3 times the share of votes for its seven classes, without those for contempt; a
  # row without such votes keeps its original label.
  onehot, angry = np.eye(7)[original.label], np.eye(7)[0]
  shares = [[2 / 3, 0, 0, 0, 0, 0, 1 / 3], angry, onehot[2], angry, [0, 0, 0, 0.4, 0.2, 0.4, 0]]
  np.testing.assert_allclose(blend.soft_label[:5], 0.7 * onehot[:5] + 0.3 * np.array(shares), rtol=1e-6)
  np.testing.assert_array_equal(blend.soft_label.argmax(axis=1), original.label)


def test_error_for_missing_ferplus_votes_contains_instructions(tmp_path):
  layouts.write_fer2013_csv(tmp_path / "fer2013.csv", 7)
  data_dir = str(tmp_path / "data")
  builders.prepare("fer2013", data_dir, str(tmp_path))
  with pytest.raises(UserError) as caught:
    arrays.load("fer2013", data_dir, labels="ferplus_soft")
  for words in (
    "fer2013new.csv",
    "next to fer2013.csv",
    "--dataset=fer2013",
    f"--data_dir={data_dir}",
    "--overwrite",
  ):
    assert words in str(caught.value)


def test_error_for_an_unprepared_dataset_contains_instructions(tmp_path):
  with pytest.raises(UserError) as caught:
    arrays.load("fer2013", str(tmp_path))
  assert "\n" not in str(caught.value)
  for words in (
    f"fer2013 is not prepared in {tmp_path}",
    "fer2013.csv",
    f"python -m fer_jax.apps.prepare --dataset=fer2013 --manual_dir=DIR --data_dir={tmp_path}",
  ):
    assert words in str(caught.value)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_synthetic_faces")
def test_synthetic_faces_are_prepared_by_the_first_load(tmp_path, capsys):
  loaded = arrays.load("synthetic_faces", str(tmp_path))
  assert capsys.readouterr().out.count("\n") == 1
  assert loaded.image.shape == (28, 48, 48, 1)
  assert set(loaded.split.tolist()) == set(arrays.SPLITS)
  assert set(loaded.label.tolist()) == set(range(7))
  assert all(loaded.subject.tolist())
  again = arrays.load("synthetic_faces", str(tmp_path))
  assert capsys.readouterr().out == ""
  np.testing.assert_array_equal(again.image, loaded.image)
  with pytest.raises(UserError, match="only fer2013 has"):
    arrays.load("synthetic_faces", str(tmp_path), labels="ferplus_hard")


@pytest.mark.parametrize("damage", ["truncated", "removed", "overwritten"])
def test_error_for_a_damaged_dataset_contains_instructions(data_dir, damage):
  (shard,) = builders.make_builder("fer2013", data_dir).data_path.glob("*validation*")
  if damage == "removed":
    shard.unlink()
  elif damage == "truncated":
    shard.write_bytes(shard.read_bytes()[:5000])
  else:
    shard.write_bytes(bytes(len(shard.read_bytes())))
  with pytest.raises(UserError, match=r"the dataset prepared in .* is damaged .*--overwrite"):
    arrays.load("fer2013", data_dir)


def test_rejects_invalid_arguments(data_dir):
  with pytest.raises(UserError, match="labels='soft' is unknown; expected original, ferplus_hard, ferplus_soft"):
    arrays.load("fer2013", data_dir, labels="soft")
  with pytest.raises(UserError, match="image_size=0"):
    arrays.load("fer2013", data_dir, image_size=0)
  with pytest.raises(UserError, match="'affectnet' is unknown"):
    arrays.load("affectnet", data_dir)
