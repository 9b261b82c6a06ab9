import dataclasses

import cv2
import numpy as np
import pytest
import scipy.fft

from fer_jax.data import audit, duplicates
from tests.data.audit_test import dataset, photographs, planted_duplicates, toned


@pytest.fixture
def planted():
  return planted_duplicates()


class TestImageIds:
  def test_equal_images_have_one_id_in_order_of_appearance(self, planted):
    number = duplicates.image_ids(planted)
    assert number.dtype == np.int32
    assert number.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5]

  def test_one_different_pixel_gives_another_id(self):
    image = np.repeat(photographs(1), 2, axis=0)
    image[1, 47, 47] ^= 1
    assert duplicates.image_ids(dataset(image, [0, 0], ["train"] * 2)).tolist() == [0, 1]

  def test_augmented_copy_has_the_id_of_its_original(self, planted):
    rows = [*range(10), 6, 8, 8, 9]
    expanded = dataclasses.replace(
      dataset(planted.image[rows], planted.label[rows], planted.split[rows]),
      image=np.concatenate([planted.image, photographs(4, seed=1)]),
      origin=np.array(rows, np.int32),
    )
    assert duplicates.image_ids(expanded).tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5, 1, 4, 4, 5]

  def test_memory_mapped_images_give_equal_results_and_are_not_copied(self, planted, tmp_path):
    np.save(tmp_path / "image.npy", planted.image)
    mapped = dataclasses.replace(planted, image=np.load(tmp_path / "image.npy", mmap_mode="r"))
    assert audit.audit(mapped) == audit.audit(planted)
    assert duplicates.find_duplicates(mapped).pairs.tolist() == duplicates.find_duplicates(planted).pairs.tolist()
    assert duplicates.without_train_duplicates(mapped).image is mapped.image


class TestPerceptualHash:
  @pytest.mark.parametrize(("number", "size", "channels"), [(40, 48, 1), (20, 33, 3), (1030, 9, 1)])
  def test_equals_a_reference_of_scipy_in_float64(self, number, size, channels):
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

  def test_distance_is_small_for_tone_and_size_and_large_for_other_images(self):
    image = photographs(30)
    code = duplicates.perceptual_hash(image)[0]
    larger = np.stack([cv2.resize(one, (96, 96), interpolation=cv2.INTER_CUBIC)[..., None] for one in image])
    for other in (toned(image), larger):
      assert np.bitwise_count(code ^ duplicates.perceptual_hash(other)[0]).max() <= duplicates.NEAR
    assert np.bitwise_count(code[1:] ^ code[:-1]).min() > 2 * duplicates.NEAR

  def test_image_without_content_at_these_frequencies_has_no_hash(self):
    image = photographs(4)
    image[1] = 200
    image[2] = np.arange(48)[:, None]  # every row is constant
    assert duplicates.perceptual_hash(image)[1].tolist() == [True, False, False, True]


class TestNearPairs:
  @pytest.mark.parametrize("threshold", [0, 5, 6, 22])
  def test_equal_those_of_an_exhaustive_search(self, threshold):
    # More than one block; the last 150 hashes differ from earlier ones in 0 to 24 bits.
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

  def test_no_hashes_have_no_pairs(self):
    assert duplicates.near_pairs(np.empty(0, np.uint64)).shape == (0, 3)


class TestFindDuplicates:
  def test_finds_the_planted_duplicates_and_near_pairs(self, planted):
    found = duplicates.find_duplicates(planted)
    assert found.image_id.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 4, 5]
    assert found.row.tolist() == [0, 1, 2, 3, 4, 9]
    assert found.pairs[:, :2].tolist() == [[2, 3]]
    assert found.pairs[0, 2] <= duplicates.NEAR
    assert len(set(found.near_group.tolist())) == 5
    assert found.near_group[2] == found.near_group[3]

  def test_constant_images_are_in_no_near_pair(self):
    image = photographs(3)
    image[0], image[1] = 10, 20
    assert len(duplicates.find_duplicates(dataset(image, [0] * 3, ["train"] * 3), 20).pairs) == 0

  def test_frames_of_one_sequence_are_no_near_pair(self, planted):
    same_sequence = dataclasses.replace(planted, group=np.array([0, 1, 2, 2, 4, 0, 5, 6, 4, 7], np.int32))
    assert len(duplicates.find_duplicates(same_sequence).pairs) == 0

  def test_near_groups_are_transitive(self, monkeypatch):
    # A chain of hashes at distances within the threshold, whose ends are farther apart than the threshold.
    code = np.array([0b0, 0b1111, 0b11111111, 2**63], np.uint64)
    monkeypatch.setattr(duplicates, "perceptual_hash", lambda image: (code, np.ones(4, bool)))
    found = duplicates.find_duplicates(dataset(photographs(4), [0] * 4, ["train"] * 4), 4)
    assert found.pairs.tolist() == [[0, 1, 4], [0, 3, 1], [1, 2, 4]]
    assert len(set(found.near_group.tolist())) == 1

  def test_threshold_is_inclusive(self, monkeypatch):
    code = np.array([0b0, 0b111], np.uint64)
    monkeypatch.setattr(duplicates, "perceptual_hash", lambda image: (code, np.ones(2, bool)))
    two = dataset(photographs(2), [0] * 2, ["train"] * 2)
    assert [len(duplicates.find_duplicates(two, threshold).pairs) for threshold in (2, 3)] == [0, 1]


class TestTrainDuplicates:
  def test_duplicated_in_training_marks_images_that_are_also_in_training(self, planted):
    assert duplicates.duplicated_in_training(planted).tolist() == [True, True, False]
    assert duplicates.duplicated_in_training(planted, "validation").tolist() == [False, True, True]

  def test_evaluated_images_are_left_out_of_training(self, planted):
    split = planted.split.copy()
    image = planted.image.copy()
    kept = duplicates.without_train_duplicates(planted)
    # Images 0 and 1 are also in validation, 0 and 4 in test. The other print of 2 in validation is not an equal image.
    assert kept.rows("train").tolist() == [2]
    for name in ("validation", "test"):
      np.testing.assert_array_equal(kept.rows(name), planted.rows(name))
    assert kept.split.tolist() == ["", "", "train", "validation", ""] + ["validation"] * 2 + ["test"] * 3
    assert not duplicates.duplicated_in_training(kept).any()
    assert kept.image is planted.image
    assert kept.notes == (
      "3 of the 4 training examples are left out: their images also appear, pixel by pixel, in the validation "
      "or test split",
    )
    np.testing.assert_array_equal(planted.split, split)
    np.testing.assert_array_equal(planted.image, image)

  def test_duplicates_within_training_are_kept(self):
    image = photographs(3)[[0, 0, 1, 2]]
    kept = duplicates.without_train_duplicates(dataset(image, [0] * 4, ["train"] * 3 + ["test"]))
    assert kept.rows("train").tolist() == [0, 1, 2]
    assert kept.notes[0].startswith("0 of the 3 training examples")
