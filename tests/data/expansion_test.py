"""Augmented copies and their splits; tests/training/replicas_test.py tests the expanded splits of whole runs."""

import dataclasses

import jax
import numpy as np
import pytest

from fer_jax.data import duplicates, expansion
from fer_jax.data.arrays import Arrays
from fer_jax.data.expansion import CopyAugmentation, Expansion
from fer_jax.runtime.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# A constant, so that all tests share one compiled program.
AUGMENTATION = CopyAugmentation()


def make_arrays(counts, size=4, channels=1):
  """Returns random images, with the given number of each class, in random order of the classes."""
  generator = np.random.default_rng(0)
  label = generator.permutation(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
  n = len(label)
  return Arrays(
    image=generator.integers(0, 256, (n, size, size, channels), dtype=np.uint8),
    label=label,
    subject=np.array([f"P{i % 5}" for i in range(n)]),
    group=np.arange(n, dtype=np.int32) // 2,
    split=np.array(["train", "train", "validation", "train", "test"] * n)[:n],
    class_names=CLASSES[: len(counts)],
    soft_label=generator.dirichlet(np.ones(len(counts)), n).astype(np.float32),
    notes=("a note",),
  )


@pytest.fixture(scope="module")
def arrays():
  return make_arrays([7, 5, 8])


@pytest.fixture(scope="module")
def honest(arrays):
  """Factor 3 for the first class and 5 for the others."""
  return Expansion("honest", 5, {"angry": 3}, seed=2)


@pytest.fixture(scope="module")
def expanded(arrays, honest):
  return expansion.expand(arrays, honest)


@pytest.mark.parametrize(
  ("counts", "settings", "total"),
  [
    ((95, 79, 72, 108, 110, 108, 228), Expansion("paper", 15), 12_000),  # CK+
    ((30, 29, 32, 31, 30, 31, 30), Expansion("paper", 50), 10_650),  # JAFFE
    ((476, 462, 505, 484, 453, 484, 8016), Expansion("paper", 5, {"neutral": 1}), 22_336),  # Oulu-CASIA
  ],
)
def test_counts_equal_those_of_the_papers(counts, settings, total):
  arrays = make_arrays(counts)
  expanded = expansion.expand(arrays, settings)
  assert len(expanded) == len(expanded.image) == len(expanded.subject) == len(expanded.split) == total
  expected = [n * settings.by_class.get(name, settings.factor) for name, n in zip(CLASSES, counts, strict=True)]
  assert np.bincount(expanded.label).tolist() == expected
  np.testing.assert_array_equal(np.bincount(expanded.origin), expansion.factors(arrays, settings))


class TestExpand:
  def test_originals_come_first_and_are_unchanged(self, arrays, expanded):
    n = len(arrays)
    for key in ("image", "label", "subject", "group", "split", "soft_label"):
      np.testing.assert_array_equal(getattr(expanded, key)[:n], getattr(arrays, key))
    assert expanded.origin[:n].tolist() == list(range(n))
    assert expanded.image.dtype == np.uint8
    assert expanded.origin.dtype == np.int32

  def test_copies_have_all_columns_but_the_image_of_their_original(self, arrays, expanded):
    origin = expanded.origin[len(arrays) :]
    assert np.all(np.diff(origin) >= 0)
    np.testing.assert_array_equal(np.bincount(origin), np.where(arrays.label == 0, 2, 4))
    for key in ("label", "subject", "group", "split", "soft_label"):
      np.testing.assert_array_equal(getattr(expanded, key)[len(arrays) :], getattr(arrays, key)[origin])

  def test_copies_differ_from_each_other(self, expanded):
    without_origin = dataclasses.replace(expanded, origin=None)
    # A small rotation may not change an image of 4x4 pixels.
    assert len(np.unique(duplicates.image_ids(without_origin))) > 0.95 * len(expanded)

  def test_seed_determines_the_images_of_the_copies(self, arrays, honest, expanded):
    again = expansion.expand(arrays, honest)
    other = expansion.expand(arrays, dataclasses.replace(honest, seed=3))
    np.testing.assert_array_equal(again.image, expanded.image)
    assert np.any(other.image != expanded.image)
    np.testing.assert_array_equal(other.origin, expanded.origin)

  def test_copy_depends_only_on_its_original_and_number(self, arrays, expanded):
    train = arrays.rows("train")
    fewer = expansion.expand(arrays, Expansion("honest", 3, seed=2), train[::-1])
    np.testing.assert_array_equal(fewer.origin[len(arrays) :], np.repeat(train, 2))
    for row in train:
      copies, expected = (each.image[np.flatnonzero(each.origin == row)] for each in (fewer, expanded))
      np.testing.assert_array_equal(copies, expected[:3])

  def test_copy_is_the_rounded_result_of_the_augmentation(self, arrays, expanded):
    row = len(arrays) + 5
    origin = expanded.origin[row]
    number = 5 - np.searchsorted(expanded.origin[len(arrays) :], origin) + 1
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2), origin), number)
    expected = np.asarray(jax.jit(AUGMENTATION)(arrays.image[origin], key))
    assert np.abs(expanded.image[row] - expected).max() <= 0.51  # rounded, not truncated
    assert expected.max() > 100

  def test_colour_images_are_mirrored(self):
    arrays = make_arrays([2, 2], size=3, channels=3)
    mirror = CopyAugmentation(flip=1.0, shift=0, rotation=(0, 0), scale=(1, 1), contrast=0, brightness=0)
    expanded = expansion.expand(arrays, Expansion("honest", 2, augmentation=mirror))
    np.testing.assert_array_equal(expanded.image[4:], arrays.image[:, :, ::-1])

  def test_copies_do_not_depend_on_the_number_made_at_once(self, arrays, honest, expanded, monkeypatch):
    monkeypatch.setattr(expansion, "_CHUNK_ROWS", 7)
    found = expansion.expand(arrays, honest)
    assert np.abs(found.image.astype(int) - expanded.image).max() <= 1

  def test_rows_with_factor_1_get_no_copies(self, arrays):
    expanded = expansion.expand(arrays, Expansion("honest", 1, {"angry": 4}), np.flatnonzero(arrays.label != 0))
    np.testing.assert_array_equal(expanded.image, arrays.image)
    assert expanded.origin.tolist() == list(range(len(arrays)))

  def test_error_names_an_unknown_class(self, arrays):
    with pytest.raises(UserError) as raised:
      expansion.expand(arrays, Expansion("paper", by_class={"contempt": 2}))
    assert str(raised.value) == (
      "config.expansion.by_class.contempt: the dataset has no such class; expected one of angry, disgust, fear"
    )


class TestHonest:
  def test_only_copies_of_training_examples_are_in_a_split(self, arrays, expanded):
    resplit = dataclasses.replace(arrays, split=np.roll(arrays.split, 1), notes=("resplit",))
    found = expansion.with_training_copies(resplit, expanded)
    assert found.image is expanded.image
    assert found.notes == ("resplit",)
    for split in ("validation", "test"):
      np.testing.assert_array_equal(found.rows(split), resplit.rows(split))
    is_training = np.isin(expanded.origin, resplit.rows("train"))
    np.testing.assert_array_equal(found.split == "train", is_training)
    assert set(found.split[~is_training][len(arrays) - len(resplit.rows("train")) :].tolist()) == {""}

  def test_notes_count_images_copies_and_subjects(self, arrays, honest, expanded):
    found = expansion.with_training_copies(arrays, expanded)
    train = arrays.rows("train")
    before = np.bincount(arrays.label[train])
    after = before * [3, 5, 5]
    *earlier, expansion_note, overlap_note = expansion.with_notes(found, honest, duplicates.image_ids(found)).notes
    assert earlier == ["a note"]
    assert expansion_note == (
      f'expansion, protocol "honest", seed 2: split, then expanded: the 12 training examples became {after.sum()} '
      f"(angry {before[0]} x 3 = {after[0]}, disgust {before[1]} x 5 = {after[1]}, fear {before[2]} x 5 = {after[2]}); "
      "copies are in no other split"
    )
    # The test images 4, 9, 14 and 19 show P4, who is in no other split.
    assert overlap_note == (
      "0 of the 4 test examples also appear in training, as the same image or as a copy of it; 0 show a person who is "
      "also in training"
    )

  def test_notes_count_equal_images(self, arrays, honest):
    image = arrays.image.copy()
    image[4] = image[0]  # row 4 is in test, row 0 in training
    expanded = expansion.expand(dataclasses.replace(arrays, image=image, subject=np.full(20, "")), honest)
    found = expansion.with_training_copies(arrays, expanded)
    note = expansion.with_notes(found, honest, duplicates.image_ids(found)).notes[-1]
    assert note == "1 of the 4 test examples also appear in training, as the same image or as a copy of it"
