import numpy as np
import pytest

from fer_jax.data import splits
from fer_jax.data.arrays import Arrays
from fer_jax.errors import UserError


def make_arrays(label, group, split):
  size = len(label)
  return Arrays(
    image=np.arange(size, dtype=np.uint8).reshape(size, 1, 1, 1),
    label=np.array(label, np.int32),
    subject=np.full(size, ""),
    group=np.array(group, np.int32),
    split=np.array(split),
    class_names=("a", "b", "c"),
  )


@pytest.fixture
def dataset():
  """Three classes of 400, 100 and 20 training examples in groups of one to three, and a test split."""
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1, 2], [400, 100, 20])
  group = np.cumsum(rng.random(len(label)) < 0.6) + 1000 * label
  order = rng.permutation(len(label))
  return make_arrays([*label[order], 0, 1, 2], [*group[order], 0, 1001, 7], ["train"] * len(label) + ["test"] * 3)


def test_the_share_is_stratified(dataset):
  divided = splits.with_validation(dataset, fraction=0.2)
  counts = [np.bincount(divided.label[divided.rows(split)], minlength=3) for split in ("train", "validation")]
  np.testing.assert_array_equal(sum(counts), [400, 100, 20])
  np.testing.assert_array_equal(counts[1], [80, 20, 4])


def test_no_group_is_divided(dataset):
  divided = splits.with_validation(dataset, fraction=0.3)
  groups = [set(divided.group[divided.rows(split)].tolist()) for split in ("train", "validation")]
  assert not groups[0] & groups[1]


def test_only_training_rows_change_and_a_note_says_so(dataset):
  divided = splits.with_validation(dataset)
  np.testing.assert_array_equal(divided.rows("test"), dataset.rows("test"))
  np.testing.assert_array_equal(divided.image, dataset.image)
  assert set(divided.split[dataset.rows("train")].tolist()) == {"train", "validation"}
  assert f"{len(divided.rows('validation'))} of its 520 training examples" in divided.notes[-1]


def test_the_same_seed_chooses_the_same_and_another_seed_others(dataset):
  first, again, other = (splits.with_validation(dataset, seed=seed).split for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_a_dataset_with_a_validation_split_is_unchanged(dataset):
  divided = splits.with_validation(dataset)
  assert splits.with_validation(divided, fraction=0.5) is divided


def test_a_class_keeps_training_examples_and_gives_one_group_if_it_has_two():
  dataset = make_arrays([0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 2, 3, 4, 5], ["train"] * 7)
  divided = splits.with_validation(dataset, fraction=0.01)
  assert np.bincount(divided.label[divided.rows("validation")], minlength=3).tolist() == [1, 1, 0]
  divided = splits.with_validation(make_arrays([0] * 101, [0] + [1] * 100, ["train"] * 101), fraction=0.1)
  assert divided.rows("validation").tolist() == [0]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_a_fraction_out_of_range_is_an_error(dataset, fraction):
  with pytest.raises(UserError, match=f"fraction={fraction} "):
    splits.with_validation(dataset, fraction=fraction)


def test_too_few_training_examples_are_an_error():
  with pytest.raises(UserError, match="too small"):
    splits.with_validation(make_arrays([0], [0], ["train"]))
