"""Streamed datasets: images, columns and batches equal the decoded ones; damage and unsupported options are errors."""

import concurrent.futures
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest

from fer_jax.data import arrays, audit, builders, duplicates, expansion, pipeline, records
from fer_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig
from fer_jax.runtime.errors import UserError

SIZE = 24


@pytest.fixture(scope="module", autouse=True)
def small_synthetic_faces():
  """Reduces the built-in dataset to 84 faces."""
  config = SyntheticFacesConfig(name="48px", size=48, subjects=(4, 1, 1), repetitions=2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(SyntheticFaces, "BUILDER_CONFIGS", [config])
    yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  builders.prepare("synthetic_faces", str(folder))
  return str(folder)


@pytest.fixture(scope="module")
def decoded(data_dir):
  return arrays.load("synthetic_faces", data_dir, image_size=SIZE, residence="host")


@pytest.fixture
def streamed(data_dir):
  return load(data_dir)


@pytest.fixture
def dataset_copy(data_dir, tmp_path):
  """Copy of the prepared dataset, for tests that damage it."""
  shutil.copytree(data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("arrays"))
  return str(tmp_path / "copy")


def load(data_dir):
  return arrays.load("synthetic_faces", data_dir, image_size=SIZE, residence="stream")


def folder_of(data_dir):
  return pathlib.Path(builders.make_builder("synthetic_faces", data_dir).data_dir)


def shard_of(data_dir, split="train"):
  (path,) = folder_of(data_dir).glob(f"*-{split}.*")
  return path


def flip_bit(path, position):
  data = bytearray(path.read_bytes())
  data[position] ^= 1
  path.write_bytes(data)


def assert_same_batches(found, expected):
  found, expected = list(found), list(expected)
  assert len(found) == len(expected) > 0
  for one, other in zip(found, expected, strict=True):
    for a, b in zip(one, other, strict=True):
      np.testing.assert_array_equal(a, b)


class TestRecords:
  @pytest.mark.parametrize(
    "rows", [[5], [3, 0, 83, 41, 3, 3], [-1, 2, -84], [], slice(None), slice(70, None, 3), np.int32(7), 9, -2]
  )
  def test_rows_equal_the_decoded_array(self, streamed, decoded, rows):
    if isinstance(rows, list):
      rows = np.array(rows, np.int32)
    found, expected = streamed.image[rows], decoded.image[rows]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8

  def test_has_the_attributes_of_the_decoded_array(self, streamed, decoded):
    for name in ("shape", "dtype", "ndim", "nbytes"):
      assert getattr(streamed.image, name) == getattr(decoded.image, name)
    assert len(streamed.image) == len(decoded.image) == len(streamed)
    np.testing.assert_array_equal(list(streamed.image), decoded.image)

  def test_row_out_of_range_raises_index_error(self, streamed):
    for row in (84, -85, np.array([0, 84])):
      with pytest.raises(IndexError, match="for 84 images"):
        streamed.image[row]

  def test_rejects_conversion_to_an_array(self, streamed):
    with pytest.raises(TypeError, match="index rows instead"):
      np.asarray(streamed.image)

  def test_concurrent_reads_equal_the_decoded_array(self, streamed, decoded):
    generator = np.random.default_rng(0)
    requests = [generator.integers(0, 84, 20) for _ in range(60)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      for rows, image in zip(requests, pool.map(streamed.image.__getitem__, requests), strict=True):
        np.testing.assert_array_equal(image, decoded.image[rows])


class TestColumns:
  def test_columns_equal_the_decoded_dataset(self, streamed, decoded):
    for name in ("label", "subject", "group", "split"):
      found, expected = getattr(streamed, name), getattr(decoded, name)
      np.testing.assert_array_equal(found, expected)
      assert found.dtype == expected.dtype
    assert streamed.class_names == decoded.class_names
    assert (streamed.crop, streamed.streamed, decoded.streamed) == ("face", True, False)
    assert "equal byte by byte" in streamed.notes[-1]

  def test_equal_files_have_the_same_image_id(self, streamed, decoded):
    np.testing.assert_array_equal(duplicates.image_ids(streamed), duplicates.image_ids(decoded))
    np.testing.assert_array_equal(
      duplicates.duplicated_in_training(streamed), duplicates.duplicated_in_training(decoded)
    )

  def test_audit_equals_that_of_the_decoded_dataset(self, streamed, decoded):
    found, expected = (vars(duplicates.find_duplicates(each)) for each in (streamed, decoded))
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value)
    assert audit.audit(streamed) == audit.audit(decoded)

  def test_second_load_reads_no_records(self, dataset_copy, monkeypatch):
    first = load(dataset_copy)
    monkeypatch.setattr(records.Shards, "examples", None)
    again = load(dataset_copy)
    for name in ("label", "subject", "group", "split", "image_id"):
      np.testing.assert_array_equal(getattr(again, name), getattr(first, name))

  @pytest.mark.parametrize("name", ["label.npy", "checksum.npy", "contents.json"])
  def test_damaged_cache_is_rebuilt(self, dataset_copy, decoded, name):
    load(dataset_copy)
    cache = folder_of(dataset_copy) / "arrays" / "records"
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[:-3])
    np.testing.assert_array_equal(load(dataset_copy).label, decoded.label)
    assert (cache / name).read_bytes() == whole

  def test_cache_of_other_shards_is_rebuilt(self, dataset_copy, decoded):
    load(dataset_copy)
    path = folder_of(dataset_copy) / "arrays" / "records" / "contents.json"
    contents = json.loads(path.read_text())
    contents["source"][shard_of(dataset_copy).name] += 1
    path.write_text(json.dumps(contents))
    np.testing.assert_array_equal(load(dataset_copy).label, decoded.label)
    assert json.loads(path.read_text())["source"][shard_of(dataset_copy).name] == shard_of(dataset_copy).stat().st_size

  def test_loads_without_a_cache_where_it_cannot_be_written(self, dataset_copy, decoded, capsys):
    folder_of(dataset_copy).joinpath("arrays").write_text("a file at the path of the folder")
    np.testing.assert_array_equal(load(dataset_copy).image[:3], decoded.image[:3])
    assert "every run reads all records" in capsys.readouterr().out


class TestBatches:
  def test_training_batches_equal_those_from_memory(self, streamed, decoded):
    for process in ((0, 1), (1, 3)):
      sources = [
        pipeline.ShuffledBatches(each, "train", 13, 0, host=True, process=process) for each in (streamed, decoded)
      ]
      iterators = [pipeline.training_iterator(sources[0], threads=3), pipeline.training_iterator(sources[1])]
      batches = [[next(iterator) for _ in range(12)] for iterator in iterators]
      iterators[0].close()
      assert_same_batches(*batches)

  @pytest.mark.parametrize("surplus", [0, 9])
  def test_evaluation_batches_equal_those_from_memory(self, streamed, decoded, surplus):
    for process in ((0, 1), (1, 2)):
      assert_same_batches(
        *(
          pipeline.evaluation_batches(each, "train", 10, host=True, batches=surplus, view=2, process=process)
          for each in (streamed, decoded)
        )
      )

  def test_processes_split_every_evaluation_batch(self, streamed):
    whole = list(pipeline.evaluation_batches(streamed, "train", 10, host=True))
    parts = [pipeline.evaluation_batches(streamed, "train", 10, host=True, process=(i, 2)) for i in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
      np.testing.assert_array_equal(np.concatenate([share.image for share in shares]), batch.image)
      np.testing.assert_array_equal(np.concatenate([share.index for share in shares]), batch.index)

  def test_process_decodes_only_its_own_rows(self, streamed, monkeypatch):
    read = []
    raw = records.Shards.read
    monkeypatch.setattr(records.Shards, "read", lambda self, rows: read.extend(rows.tolist()) or raw(self, rows))
    batch = pipeline.ShuffledBatches(streamed, "train", 12, 0, host=True, process=(1, 3))[0]
    assert sorted(read) == sorted(batch.index.tolist())
    assert len(read) == 4

  @pytest.mark.parametrize("taken", [0, 1, 9])
  def test_saved_position_excludes_prefetched_batches(self, streamed, taken):
    source = pipeline.ShuffledBatches(streamed, "train", 7, 0, host=True)
    iterator = pipeline.training_iterator(source, threads=3)
    for _ in range(taken):
      next(iterator)
    position = json.loads(json.dumps(iterator.get_state()))
    next(iterator)
    next(iterator)
    other = pipeline.training_iterator(source, threads=2)
    for each in (iterator, other):
      each.set_state(position)
      assert_same_batches([next(each) for _ in range(4)], [source[k] for k in range(taken, taken + 4)])
      each.close()

  def test_closing_an_iterator_stops_its_threads(self, streamed):
    def prefetch_threads():
      return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]

    iterator = pipeline.training_iterator(pipeline.ShuffledBatches(streamed, "train", 7, 0, host=True), threads=3)
    next(iterator)
    threads = prefetch_threads()
    assert threads
    iterator.close()
    for thread in threads:
      thread.join(10)
    batches = pipeline.evaluation_batches(streamed, "train", 10, host=True)
    next(batches)
    threads = prefetch_threads()
    assert threads
    batches.close()
    for thread in threads:
      thread.join(10)
    assert not prefetch_threads()

  def test_number_of_prefetched_batches_is_bounded(self, streamed, monkeypatch):
    made = []
    getitem = pipeline.ShuffledBatches.__getitem__
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 3 * 7 * SIZE * SIZE)
    monkeypatch.setattr(pipeline.ShuffledBatches, "__getitem__", lambda self, k: made.append(k) or getitem(self, k))
    iterator = pipeline.training_iterator(pipeline.ShuffledBatches(streamed, "train", 7, 0, host=True), threads=8)
    for taken in range(1, 6):
      next(iterator)
      assert len(made) <= taken + 3
    iterator.close()

  def test_batches_from_memory_start_no_threads(self, decoded, streamed):
    threads = threading.active_count()
    for host, dataset in ((True, decoded), (False, decoded), (False, streamed)):
      next(pipeline.training_iterator(pipeline.ShuffledBatches(dataset, "train", 7, 0, host=host)))
    assert threading.active_count() == threads


class TestDamage:
  def test_error_for_a_flipped_bit_names_the_record(self, dataset_copy):
    dataset = load(dataset_copy)
    shard = shard_of(dataset_copy)
    flip_bit(shard, shard.stat().st_size // 3)
    source = pipeline.ShuffledBatches(dataset, "train", 8, 0, host=True)
    with pytest.raises(UserError) as caught:
      iterator = pipeline.training_iterator(source, threads=2)
      for _ in range(8):
        next(iterator)
    message = str(caught.value)
    assert str(shard) in message
    assert "record " in message
    assert "--overwrite" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="--overwrite"):
      list(pipeline.evaluation_batches(dataset, "train", 8, host=True))
    row = int(message.partition("(row ")[2].split()[0])
    load(dataset_copy).image[np.setdiff1d(np.arange(70), row)]  # all other rows can be read
    with pytest.raises(UserError, match=f"row {row} of"):
      load(dataset_copy).image[row]

  def test_first_load_detects_a_flipped_bit(self, dataset_copy):
    shard = shard_of(dataset_copy)
    flip_bit(shard, shard.stat().st_size // 3)
    with pytest.raises(UserError, match=r"-train\.array_record.*, record \d+ \(row \d+ of the dataset\)"):
      load(dataset_copy)
    assert not (folder_of(dataset_copy) / "arrays").exists()

  def test_error_names_a_truncated_shard(self, dataset_copy):
    load(dataset_copy)
    shard = shard_of(dataset_copy, "test")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(UserError, match=r"-test\.array_record.*, record 0 \(row 70 of the dataset\).*--overwrite"):
      load(dataset_copy)

  def test_error_names_a_missing_shard(self, dataset_copy):
    shard_of(dataset_copy, "test").unlink()
    with pytest.raises(UserError, match=r"-test\.array_record.*No such file.*--overwrite"):
      load(dataset_copy)

  def test_detects_a_record_that_changed_after_the_first_load(self, dataset_copy):
    dataset = load(dataset_copy)
    dataset.image._checksum[3] ^= 1
    with pytest.raises(UserError, match=r"record 3 \(row 3 of the dataset\): its checksum differs"):
      dataset.image[:10]

  def test_error_names_the_record_of_the_shard_and_the_row_of_the_dataset(self, dataset_copy):
    dataset = load(dataset_copy)
    dataset.image._checksum[-1] ^= 1
    with pytest.raises(UserError, match=r"-test\.array_record.*, record 13 \(row 83 of the dataset\)"):
      dataset.image[80:]

  def test_error_names_an_image_that_cannot_be_decoded(self, streamed, monkeypatch):
    monkeypatch.setattr(records.Shards, "read", lambda self, rows: iter([b"\x89PNG\r\n\x1a\n"] * len(rows)))
    monkeypatch.setattr(records.zlib, "crc32", lambda _: streamed.image._checksum[5])
    with pytest.raises(UserError, match=r"record 5 \(row 5 of the dataset\): not a readable image"):
      streamed.image[5]


class TestResidence:
  def test_datasets_above_the_memory_limit_are_streamed(self, data_dir, decoded, monkeypatch):
    for limit, expected in ((decoded.image.nbytes, False), (decoded.image.nbytes - 1, True)):
      monkeypatch.setattr(arrays, "_MAX_DECODED_BYTES", limit)
      assert arrays.load("synthetic_faces", data_dir, image_size=SIZE).streamed == expected
    assert not arrays.load("synthetic_faces", data_dir, image_size=SIZE, residence="host").streamed

  def test_rejects_photographs(self, data_dir, monkeypatch):
    monkeypatch.setattr(arrays, "_resolve_crop", lambda *_: "fixed")
    with pytest.raises(
      UserError, match=r"requires a dataset of face images, and synthetic_faces .*crop='fixed'.*='host'"
    ):
      load(data_dir)

  def test_rejects_other_labels(self, data_dir):
    with pytest.raises(UserError, match=r"labels='original', not 'ferplus_hard'.*='host'"):
      arrays.load("synthetic_faces", data_dir, labels="ferplus_hard", residence="stream")

  def test_rejects_an_unknown_residence(self, data_dir):
    with pytest.raises(UserError, match="residence='disk' is unknown; expected auto, device, host, stream"):
      arrays.load("synthetic_faces", data_dir, residence="disk")

  def test_rejects_expansion(self, streamed):
    with pytest.raises(UserError, match=r"config\.expansion\.protocol='honest'.*config\.data\.residence='host'"):
      expansion.expand(streamed, expansion.Expansion(protocol="honest", factor=2))
