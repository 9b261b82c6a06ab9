import dataclasses
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.fft

from fer_jax.data import arrays as prepared
from fer_jax.data import audit, builders, duplicates
from fer_jax.data.arrays import Arrays

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "fer2013"


def photographs(number, size=48, channels=1, seed=0):
  """Draws smooth random pictures, uint8 [number, size, size, channels]: all different, as photographs are."""
  coarse = np.random.default_rng(seed).uniform(0, 255, (number, 12, 12, channels)).astype(np.float32)
  drawn = [cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels) for one in coarse]
  return np.clip(np.stack(drawn), 0, 255).astype(np.uint8)


def toned(image_id):
  """Another print of the same photograph."""
  return np.clip(image_id * 0.8 + 20, 0, 255).astype(np.uint8)


def dataset(image, label, split, subject=None, group=None):
  number = len(image)
  return Arrays(
    image=image,
    label=np.array(label, np.int32),
    subject=np.full(number, "") if subject is None else np.array(subject),
    group=np.arange(number, dtype=np.int32) if group is None else np.array(group, np.int32),
    split=np.array(split),
    class_names=("a", "b", "c"),
  )


@pytest.fixture
def planted():
  """Ten examples. 0 = 5 = 7, 1 = 6, 4 = 8; 3 is another print of 2; 9 is constant."""
  image = photographs(5)[[0, 1, 2, 3, 4, 0, 1, 0, 4, 0]]
  image[3] = toned(image[2])
  image[9] = 9
  return dataset(
    image,
    label=[0, 1, 2, 0, 1, 0, 2, 1, 1, 0],
    split=["train"] * 3 + ["validation"] + ["train"] + ["validation"] * 2 + ["test"] * 3,
    subject=["ann", "bob", "ann", "cid", "", "ann", "", "bob", "", "eve"],
    group=[0, 1, 2, 3, 4, 0, 5, 6, 4, 7],
  )


class TestPictures:
  def test_equal_pictures_have_one_number_in_the_order_of_appearance(self, planted):
    number = duplicates.image_ids(planted)
    assert number.dtype == np.int32
    assert number.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5]

  def test_one_pixel_makes_a_difference(self):
    image = np.repeat(photographs(1), 2, axis=0)
    image[1, 47, 47] ^= 1
    assert duplicates.image_ids(dataset(image, [0, 0], ["train"] * 2)).tolist() == [0, 1]

  def test_an_augmented_copy_is_the_picture_that_it_was_made_of(self, planted):
    rows = [*range(10), 6, 8, 8, 9]
    expanded = dataclasses.replace(
      dataset(planted.image[rows], planted.label[rows], planted.split[rows]),
      image=np.concatenate([planted.image, photographs(4, seed=1)]),
      origin=np.array(rows, np.int32),
    )
    assert duplicates.image_ids(expanded).tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5, 1, 4, 4, 5]

  def test_memory_mapped_images_serve_and_stay_as_they_are(self, planted, tmp_path):
    np.save(tmp_path / "image.npy", planted.image)
    mapped = dataclasses.replace(planted, image=np.load(tmp_path / "image.npy", mmap_mode="r"))
    assert audit.audit(mapped) == audit.audit(planted)
    assert duplicates.find_duplicates(mapped).pairs.tolist() == duplicates.find_duplicates(planted).pairs.tolist()
    assert duplicates.without_train_duplicates(mapped).image is mapped.image

  def test_constant(self):
    image = photographs(4, channels=3)
    image[1] = 7
    image[2] = [1, 2, 3]  # of one colour
    image[3] = 7
    image[3, 47, 47, 2] = 8
    assert audit.constant(image).tolist() == [False, True, True, False]


class TestPerceptualHash:
  @pytest.mark.parametrize(("number", "size", "channels"), [(40, 48, 1), (20, 33, 3), (1030, 9, 1)])
  def test_is_that_of_scipy_in_float64(self, number, size, channels):
    image = photographs(number, size, channels)
    code, known = duplicates.perceptual_hash(image)
    assert known.all()
    for one, hashed in zip(image.astype(np.float64), code, strict=True):
      grey = one[..., 0] if channels == 1 else 0.299 * one[..., 0] + 0.587 * one[..., 1] + 0.114 * one[..., 2]
      coefficient = scipy.fft.dctn(grey, type=2)[1:9, 1:9].ravel()
      bits = coefficient > np.median(coefficient)
      np.testing.assert_array_equal(np.unpackbits(np.array([hashed]).view(np.uint8)), bits)

  def test_half_of_the_bits_are_set(self):
    assert np.bitwise_count(duplicates.perceptual_hash(photographs(50))[0]).tolist() == [32] * 50

  def test_tone_and_size_hardly_matter_and_another_picture_does(self):
    image = photographs(30)
    code = duplicates.perceptual_hash(image)[0]
    larger = np.stack([cv2.resize(one, (96, 96), interpolation=cv2.INTER_CUBIC)[..., None] for one in image])
    for other in (toned(image), larger):
      assert np.bitwise_count(code ^ duplicates.perceptual_hash(other)[0]).max() <= duplicates.NEAR
    assert np.bitwise_count(code[1:] ^ code[:-1]).min() > 2 * duplicates.NEAR

  def test_a_picture_without_content_at_these_frequencies_has_none(self):
    image = photographs(4)
    image[1] = 200
    image[2] = np.arange(48)[:, None]  # the same along every row
    assert duplicates.perceptual_hash(image)[1].tolist() == [True, False, False, True]


class TestNearPairs:
  @pytest.mark.parametrize("threshold", [0, 5, 6, 22])
  def test_are_those_of_a_search_through_all_pairs(self, threshold):
    # More than one block, and hashes that differ from an earlier one in 0 to 24 bits.
    rng = np.random.default_rng(1)
    code = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for k in range(150):
      flipped = rng.choice(64, k % 25, replace=False)
      code[150 + k] = code[k] ^ np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0))
    expected = []
    for i, one in enumerate(code.tolist()):
      for j in range(i + 1, len(code)):
        distance = (one ^ int(code[j])).bit_count()
        if distance <= threshold:
          expected.append([i, j, distance])
    assert len(expected) >= 6
    assert duplicates.near_pairs(code, threshold).tolist() == expected

  def test_nothing_to_compare(self):
    assert duplicates.near_pairs(np.empty(0, np.uint64)).shape == (0, 3)


class TestFindDuplicates:
  def test_pictures_and_pairs(self, planted):
    found = duplicates.find_duplicates(planted)
    assert found.image_id.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5]
    assert found.row.tolist() == [0, 1, 2, 3, 4, 9]
    assert found.pairs[:, :2].tolist() == [[2, 3]]
    assert found.pairs[0, 2] <= duplicates.NEAR
    assert len(set(found.near_group.tolist())) == 5
    assert found.near_group[2] == found.near_group[3]

  def test_constant_pictures_are_near_nothing(self):
    image = photographs(3)
    image[0], image[1] = 10, 20
    assert len(duplicates.find_duplicates(dataset(image, [0] * 3, ["train"] * 3), 20).pairs) == 0

  def test_frames_of_one_sequence_are_not_listed(self, planted):
    alike = dataclasses.replace(planted, group=np.array([0, 1, 2, 2, 4, 0, 5, 6, 4, 7], np.int32))
    assert len(duplicates.find_duplicates(alike).pairs) == 0

  def test_groups_go_through_others(self, monkeypatch):
    # Three hashes in a row, four bits from one to the next: the ends are farther apart than the threshold.
    code = np.array([0b0, 0b1111, 0b11111111, 2**63], np.uint64)
    monkeypatch.setattr(duplicates, "perceptual_hash", lambda image: (code, np.ones(4, bool)))
    found = duplicates.find_duplicates(dataset(photographs(4), [0] * 4, ["train"] * 4), 4)
    assert found.pairs.tolist() == [[0, 1, 4], [0, 3, 1], [1, 2, 4]]
    assert len(set(found.near_group.tolist())) == 1

  def test_threshold(self, monkeypatch):
    code = np.array([0b0, 0b111], np.uint64)
    monkeypatch.setattr(duplicates, "perceptual_hash", lambda image: (code, np.ones(2, bool)))
    two = dataset(photographs(2), [0] * 2, ["train"] * 2)
    assert [len(duplicates.find_duplicates(two, threshold).pairs) for threshold in (2, 3)] == [0, 1]


class TestCounts:
  def test_conflicting(self):
    group, label = np.array([5, 2, 5, 2, 7, 9, 9]), np.array([0, 1, 0, 2, 3, 4, 0])
    assert audit.conflicting(group, label).tolist() == [2, 9]

  def test_class_counts(self, planted):
    counts = {split: each.tolist() for split, each in audit.class_counts(planted).items()}
    assert counts == {"train": [1, 2, 1], "validation": [2, 0, 1], "test": [1, 2, 0]}
    trained = dataclasses.replace(planted, split=np.full(10, "train"))
    assert list(audit.class_counts(trained)) == ["train"]

  def test_subjects_in_several_splits(self, planted):
    # The examples of nobody named are no person's.
    assert audit.subjects_in_several_splits(planted) == {"ann": ("train", "validation"), "bob": ("train", "test")}

  def test_overlap(self, planted):
    found = duplicates.find_duplicates(planted)
    train, validation, test = (planted.rows(split) for split in prepared.SPLITS)
    assert audit.overlap(planted, found, validation, train) == (3, 2, 1, 1, 1)
    assert audit.overlap(planted, found, test, train) == (3, 2, 0, 1, 1)
    assert audit.overlap(planted, found, test, validation) == (3, 1, 0, 0, 0)
    # The pair counts from either side.
    assert audit.overlap(planted, found, train, validation) == (4, 2, 1, 2, 1)

  def test_an_equal_picture_is_not_counted_as_a_near_one_too(self):
    image = photographs(1)[[0, 0, 0]]
    image[1] = toned(image[0])
    three = dataset(image, [0] * 3, ["train", "train", "test"])
    found = duplicates.find_duplicates(three)
    assert len(found.pairs) == 1
    assert audit.overlap(three, found, np.array([2]), np.array([0, 1]))[:3] == (1, 1, 0)

  def test_overlap_of_people_without_names_is_unknown(self, planted):
    nameless = dataclasses.replace(planted, subject=np.full(10, ""))
    found = duplicates.find_duplicates(nameless)
    assert audit.overlap(nameless, found, nameless.rows("test"), nameless.rows("train")).subject is None


class TestTrainDuplicates:
  def test_which_were_seen_in_training(self, planted):
    assert duplicates.seen_in_training(planted).tolist() == [True, True, False]
    assert duplicates.seen_in_training(planted, "validation").tolist() == [False, True, True]

  def test_those_that_are_evaluated_are_left_out_of_training(self, planted):
    split = planted.split.copy()
    image = planted.image.copy()
    kept = duplicates.without_train_duplicates(planted)
    # 0 and 1 stand in validation, 0 and 4 in test; 2 has another print in validation, which counts as another image_id.
    assert kept.rows("train").tolist() == [2]
    for name in ("validation", "test"):
      np.testing.assert_array_equal(kept.rows(name), planted.rows(name))
    assert kept.split.tolist() == ["", "", "train", "validation", ""] + ["validation"] * 2 + ["test"] * 3
    assert not duplicates.seen_in_training(kept).any()
    assert kept.image is planted.image
    assert kept.notes == (
      "3 of the 4 training examples are left out: their images also appear, pixel by pixel, in the validation "
      "or test split",
    )
    np.testing.assert_array_equal(planted.split, split)
    np.testing.assert_array_equal(planted.image, image)

  def test_duplicates_within_training_stay(self):
    image = photographs(3)[[0, 0, 1, 2]]
    kept = duplicates.without_train_duplicates(dataset(image, [0] * 4, ["train"] * 3 + ["test"]))
    assert kept.rows("train").tolist() == [0, 1, 2]
    assert kept.notes[0].startswith("0 of the 3 training examples")


class TestInWords:
  def test_every_finding_has_a_line(self, planted):
    assert audit.audit(planted) == [
      "6 distinct images in 10 rows: 3 appear more than once",
      "2 of these groups of duplicates have conflicting labels",
      "2 of the 3 validation images also appear in train",
      "2 of the 3 test images also appear in train",
      "2 of the 4 subjects appear in more than one split",
      "1 images are constant (all pixels equal)",
    ]

  def test_nothing_found_is_nothing_said(self):
    assert audit.audit(dataset(photographs(4), [0] * 4, ["train", "train", "validation", "test"])) == []


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "make_csv.py").is_file(), reason=f"the real FER2013 is not in {DATA}")
def test_the_real_fer2013(tmp_path):
  subprocess.run([sys.executable, DATA / "make_csv.py", tmp_path], check=True, capture_output=True)
  builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path))
  fer2013 = prepared.load("fer2013", str(tmp_path / "data"))
  found = duplicates.find_duplicates(fer2013)
  assert len(found.row) == 34034
  assert len(audit.conflicting(found.image_id, fer2013.label)) == 57
  assert audit.constant(fer2013.image).sum() == 12
  train = fer2013.rows("train")
  for split, leaked in (("validation", 280), ("test", 288)):
    assert audit.overlap(fer2013, found, fer2013.rows(split), train).image_id == leaked
    assert duplicates.seen_in_training(fer2013, split).sum() == leaked
  assert np.bincount(found.pairs[:, 2]).tolist() == [125, 0, 258, 0, 540, 0, 731]
  kept = duplicates.without_train_duplicates(fer2013)
  assert len(train) - len(kept.rows("train")) == 703
  assert not duplicates.seen_in_training(kept, "validation").any()
