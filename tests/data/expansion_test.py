"""Augmented copies and their splits. The rows of a plan are tested in tests/training/replicas_test.py."""

import dataclasses

import jax
import numpy as np
import pytest

from fer_jax.data import duplicates, expansion
from fer_jax.data.arrays import Arrays
from fer_jax.data.expansion import CopyAugmentation, Expansion
from fer_jax.runtime.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# One program for all tests of this file.
PLAIN = CopyAugmentation()


def make_arrays(counts, size=4, channels=1):
  """Random pictures, so many of each class, in no order of the classes."""
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
  """The first class threefold, the others fivefold."""
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
def test_the_papers_counts_to_the_row(counts, settings, total):
  arrays = make_arrays(counts)
  expanded = expansion.expand(arrays, settings)
  assert len(expanded) == len(expanded.image) == len(expanded.subject) == len(expanded.split) == total
  became = [n * settings.by_class.get(name, settings.factor) for name, n in zip(CLASSES, counts, strict=True)]
  assert np.bincount(expanded.label).tolist() == became
  np.testing.assert_array_equal(np.bincount(expanded.origin), expansion.factors(arrays, settings))


class TestExpand:
  def test_originals_come_first_and_are_untouched(self, arrays, expanded):
    n = len(arrays)
    for key in ("image", "label", "subject", "group", "split", "soft_label"):
      np.testing.assert_array_equal(getattr(expanded, key)[:n], getattr(arrays, key))
    assert expanded.origin[:n].tolist() == list(range(n))
    assert expanded.image.dtype == np.uint8
    assert expanded.origin.dtype == np.int32

  def test_copies_share_all_but_the_image_with_their_picture(self, arrays, expanded):
    origin = expanded.origin[len(arrays) :]
    assert np.all(np.diff(origin) >= 0)
    np.testing.assert_array_equal(np.bincount(origin), np.where(arrays.label == 0, 2, 4))
    for key in ("label", "subject", "group", "split", "soft_label"):
      np.testing.assert_array_equal(getattr(expanded, key)[len(arrays) :], getattr(arrays, key)[origin])

  def test_every_copy_is_another(self, expanded):
    plain = dataclasses.replace(expanded, origin=None)
    assert len(np.unique(duplicates.image_ids(plain))) > 0.95 * len(expanded)  # small turns of 4x4 may do nothing

  def test_the_same_arguments_make_the_same_and_another_seed_others(self, arrays, honest, expanded):
    again = expansion.expand(arrays, honest)
    other = expansion.expand(arrays, dataclasses.replace(honest, seed=3))
    np.testing.assert_array_equal(again.image, expanded.image)
    assert np.any(other.image != expanded.image)
    np.testing.assert_array_equal(other.origin, expanded.origin)

  def test_a_copy_is_of_its_picture_and_number_alone(self, arrays, expanded):
    train = arrays.rows("train")
    fewer = expansion.expand(arrays, Expansion("honest", 3, seed=2), train[::-1])
    np.testing.assert_array_equal(fewer.origin[len(arrays) :], np.repeat(train, 2))
    for row in train:
      copies, of_whole = (each.image[np.flatnonzero(each.origin == row)] for each in (fewer, expanded))
      np.testing.assert_array_equal(copies, of_whole[:3])

  def test_a_copy_is_what_the_augmentation_makes(self, arrays, expanded):
    row = len(arrays) + 5
    origin = expanded.origin[row]
    number = 5 - np.searchsorted(expanded.origin[len(arrays) :], origin) + 1
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2), origin), number)
    expected = np.asarray(jax.jit(PLAIN)(arrays.image[origin], key))
    assert np.abs(expanded.image[row] - expected).max() <= 0.51  # rounded, not cut off
    assert expected.max() > 100

  def test_colours_and_mirror_images_alone(self):
    arrays = make_arrays([2, 2], size=3, channels=3)
    mirror = CopyAugmentation(flip=1.0, shift=0, rotation=(0, 0), scale=(1, 1), contrast=0, brightness=0)
    expanded = expansion.expand(arrays, Expansion("honest", 2, augmentation=mirror))
    np.testing.assert_array_equal(expanded.image[4:], arrays.image[:, :, ::-1])

  def test_more_copies_than_are_made_at_once(self, arrays, honest, expanded, monkeypatch):
    monkeypatch.setattr(expansion, "_AT_ONCE", 7)
    found = expansion.expand(arrays, honest)
    assert np.abs(found.image.astype(int) - expanded.image).max() <= 1

  def test_nothing_to_copy(self, arrays):
    expanded = expansion.expand(arrays, Expansion("honest", 1, {"angry": 4}), np.flatnonzero(arrays.label != 0))
    np.testing.assert_array_equal(expanded.image, arrays.image)
    assert expanded.origin.tolist() == list(range(len(arrays)))

  def test_an_unknown_class_is_named(self, arrays):
    with pytest.raises(UserError) as raised:
      expansion.expand(arrays, Expansion("paper", by_class={"contempt": 2}))
    assert str(raised.value) == (
      "config.expansion.by_class.contempt: the dataset has no such class; expected one of angry, disgust, fear"
    )


class TestHonest:
  def test_copies_of_training_examples_are_in_training_and_no_others_anywhere(self, arrays, expanded):
    divided = dataclasses.replace(arrays, split=np.roll(arrays.split, 1), notes=("divided",))
    found = expansion.with_training_copies(divided, expanded)
    assert found.image is expanded.image
    assert found.notes == ("divided",)
    for split in ("validation", "test"):
      np.testing.assert_array_equal(found.rows(split), divided.rows(split))
    in_training = np.isin(expanded.origin, divided.rows("train"))
    np.testing.assert_array_equal(found.split == "train", in_training)
    assert set(found.split[~in_training][len(arrays) - len(divided.rows("train")) :].tolist()) == {""}

  def test_the_notes_count_pictures_copies_and_people(self, arrays, honest, expanded):
    found = expansion.with_training_copies(arrays, expanded)
    train = arrays.rows("train")
    few = np.bincount(arrays.label[train])
    many = few * [3, 5, 5]
    *before, grown, seen = expansion.with_notes(found, honest, duplicates.image_ids(found)).notes
    assert before == ["a note"]
    assert grown == (
      f'expansion, protocol "honest", seed 2: split, then expanded: the 12 training examples became {many.sum()} '
      f"(angry {few[0]} x 3 = {many[0]}, disgust {few[1]} x 5 = {many[1]}, fear {few[2]} x 5 = {many[2]}); copies are "
      "in no other split"
    )
    # Pictures 4, 9, 14 and 19 are of P4, who is nowhere else.
    assert seen == (
      "0 of the 4 test examples also appear in training, as the same image or as a copy of it; 0 show a person who is "
      "also in training"
    )

  def test_pictures_that_are_equal_are_told(self, arrays, honest):
    image = arrays.image.copy()
    image[4] = image[0]  # test and training
    expanded = expansion.expand(dataclasses.replace(arrays, image=image, subject=np.full(20, "")), honest)
    found = expansion.with_training_copies(arrays, expanded)
    note = expansion.with_notes(found, honest, duplicates.image_ids(found)).notes[-1]
    assert note == "1 of the 4 test examples also appear in training, as the same image or as a copy of it"
