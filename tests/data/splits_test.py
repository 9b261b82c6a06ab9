import dataclasses
import json

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

from fer_jax.data import splits
from fer_jax.data.arrays import Arrays
from fer_jax.runtime.errors import UserError


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


@pytest.fixture(scope="module")
def dataset():
  """A test split, and three classes of 400, 100 and 20 training examples in groups of random size."""
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1, 2], [400, 100, 20])
  group = np.cumsum(rng.random(len(label)) < 0.6) + 1000 * label
  order = rng.permutation(len(label))
  return make_arrays([*label[order], 0, 1, 2], [*group[order], 0, 1001, 7], ["train"] * len(label) + ["test"] * 3)


def test_validation_split_is_stratified(dataset):
  result = splits.with_validation(dataset, fraction=0.2)
  counts = [np.bincount(result.label[result.rows(split)], minlength=3) for split in ("train", "validation")]
  np.testing.assert_array_equal(sum(counts), [400, 100, 20])
  np.testing.assert_array_equal(counts[1], [80, 20, 4])


def test_groups_are_kept_whole(dataset):
  result = splits.with_validation(dataset, fraction=0.3)
  groups = [set(result.group[result.rows(split)].tolist()) for split in ("train", "validation")]
  assert not groups[0] & groups[1]


def test_only_training_rows_change_and_a_note_counts_them(dataset):
  result = splits.with_validation(dataset)
  np.testing.assert_array_equal(result.rows("test"), dataset.rows("test"))
  np.testing.assert_array_equal(result.image, dataset.image)
  assert set(result.split[dataset.rows("train")].tolist()) == {"train", "validation"}
  assert f"{len(result.rows('validation'))} of its 520 training examples" in result.notes[-1]


def test_seed_determines_the_validation_split(dataset):
  first, again, other = (splits.with_validation(dataset, seed=seed).split for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_dataset_with_a_validation_split_is_unchanged(dataset):
  result = splits.with_validation(dataset)
  assert splits.with_validation(result, fraction=0.5) is result


def test_validation_gets_one_group_of_each_class_with_two_groups():
  dataset = make_arrays([0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 2, 3, 4, 5], ["train"] * 7)
  result = splits.with_validation(dataset, fraction=0.01)
  assert np.bincount(result.label[result.rows("validation")], minlength=3).tolist() == [1, 1, 0]
  result = splits.with_validation(make_arrays([0] * 101, [0] + [1] * 100, ["train"] * 101), fraction=0.1)
  assert result.rows("validation").tolist() == [0]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_rejects_a_fraction_out_of_range(dataset, fraction):
  with pytest.raises(UserError, match=f"validation_share={fraction}: expected"):
    splits.with_validation(dataset, fraction=fraction)


@pytest.mark.parametrize("size", [0, 1])
def test_rejects_too_few_training_examples(size):
  with pytest.raises(UserError, match="too small"):
    splits.with_validation(make_arrays([0] * size, [0] * size, ["train"] * size))


def test_every_class_keeps_training_examples_at_a_large_fraction():
  result = splits.with_validation(make_arrays([0, 0, 1, 1, 1, 2], range(6), ["train"] * 6), fraction=0.99)
  assert np.bincount(result.label[result.rows("train")], minlength=3).tolist() == [1, 1, 1]


CLASSES = ("angry", "happy", "contempt")
UNITS = ("images", "groups", "subjects")


@pytest.fixture(scope="module")
def frames():
  """Frames of 40 subjects with one to six sequences of three frames each; some of different sequences are equal."""
  rng = np.random.default_rng(0)
  subject = np.repeat(rng.permutation(np.repeat(np.arange(40), rng.integers(1, 7, 40))), 3)
  sequence = np.repeat(np.arange(len(subject) // 3), 3)
  label = rng.choice(3, len(sequence) // 3, p=[0.5, 0.4, 0.1])[sequence]
  image = rng.integers(0, 256, (len(label), 2, 2, 1), dtype=np.uint8)
  image[sequence == 7] = image[sequence == 4]
  image[np.flatnonzero(sequence == 9)[0]] = image[np.flatnonzero(sequence == 7)[2]]
  return Arrays(
    image=image,
    label=label.astype(np.int32),
    subject=np.array([f"S{number:03d}" for number in subject]),
    group=(sequence * 5 + 3).astype(np.int32),
    split=np.where(np.arange(len(label)) % 2, "train", "test"),
    class_names=CLASSES,
  )


def class_table(arrays, number):
  """Returns the number of examples of each class in each part, [parts, classes]."""
  return np.array([np.bincount(arrays.label[number == part], minlength=3) for part in range(number.max() + 1)])


def keeps_units_whole(unit, number):
  """Returns whether the examples of each unit are all in the same part."""
  return all(len(set(number[unit == one].tolist())) == 1 for one in np.unique(unit))


def fold_numbers(splitter, arrays, unit=None):
  """Returns the test fold of each example, as assigned by a scikit-learn splitter."""
  number = np.full(len(arrays), -1)
  for fold, (_, test) in enumerate(splitter.split(arrays.label, arrays.label, unit)):
    number[test] = fold
  return number


@pytest.mark.parametrize("by", UNITS)
@pytest.mark.parametrize("count", [2, 5, 10])
def test_folds_are_a_partition_determined_by_the_seed(frames, by, count):
  folds, again, other = (splits.make_folds(frames, by, count, seed) for seed in (1, 1, 2))
  assert (folds.by, folds.count, folds.seed, folds.number.dtype) == (by, count, 1, np.int32)
  assert set(folds.number.tolist()) == set(range(count))
  np.testing.assert_array_equal(folds.number, again.number)
  assert np.any(folds.number != other.number)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [(100, 33, 7), (10, 10, 10), (1, 1, 7), (57, 58, 59), (1001, 2, 9)])
def test_folds_of_images_differ_by_at_most_one_example(counts, seed):
  label = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), counts))
  arrays = make_arrays(label, np.zeros(len(label)), ["train"] * len(label))
  count = 4
  found = class_table(arrays, splits.make_folds(arrays, "images", count, seed).number)
  assert np.ptp(found, axis=0).max() <= 1
  assert np.ptp(found.sum(axis=1)) <= 1


def test_equal_images_may_be_in_two_folds_of_images_but_not_of_groups(frames):
  chained = np.isin(frames.group, 5 * np.array([4, 7, 9]) + 3)  # sequences linked by equal images: 4 to 7, 7 to 9
  assert len(set(splits.make_folds(frames, "images", 10, 0).number[chained].tolist())) > 1
  folds = splits.make_folds(frames, "groups", 10, 0)
  assert len(set(folds.number[chained].tolist())) == 1
  assert keeps_units_whole(frames.group, folds.number)
  assert not keeps_units_whole(frames.subject, folds.number)


def test_folds_of_subjects_keep_subjects_whole(frames):
  assert keeps_units_whole(frames.subject, splits.make_folds(frames, "subjects", 10, 0).number)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("by", UNITS)
def test_classes_are_as_balanced_as_in_folds_of_scikit_learn(frames, by, count, seed):
  folds = splits.make_folds(frames, by, count, seed)
  if by == "images":
    reference = fold_numbers(StratifiedKFold(count, shuffle=True, random_state=seed), frames)
  else:
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    reference = fold_numbers(splitter, frames, folds.unit)
  balanced = np.bincount(frames.label) / count
  deviation, reference_deviation = (
    np.abs(class_table(frames, number) - balanced) for number in (folds.number, reference)
  )
  assert np.all(deviation.max(axis=0) <= reference_deviation.max(axis=0) + 1)


def test_one_subject_out_equals_leave_one_group_out_of_scikit_learn(frames):
  folds = splits.make_folds(frames, "one_subject_out", 3, 0)
  assert folds.count == 40
  np.testing.assert_array_equal(folds.number, fold_numbers(LeaveOneGroupOut(), frames, frames.subject))


def test_notes_list_missing_classes_or_summarize_them_if_many(frames):
  arrays = make_arrays([0] * 6 + [1] * 3 + [2], range(10), ["train"] * 10)
  folds = splits.make_folds(arrays, "images", 3, 0)
  (tested,) = folds.number[arrays.label == 2]
  expected = [f"fold {fold} has no c in its test part" for fold in range(3) if fold != tested]
  assert folds.notes == (*expected, f"fold {tested} has no c in its training part")
  assert splits.make_folds(make_arrays([0, 1] * 6, range(12), ["train"] * 12), "images", 3, 0).notes == ()
  counts = class_table(frames, splits.make_folds(frames, "one_subject_out", 2, 0).number) == 0
  (note,) = splits.make_folds(frames, "one_subject_out", 2, 0).notes
  listed = ", ".join(f"{name} in {lacking}" for name, lacking in zip(CLASSES, counts.sum(axis=0), strict=True))
  assert note == f"{counts.any(axis=1).sum()} of 40 folds lack a class in their test part: {listed}"


@pytest.mark.parametrize(
  ("by", "count", "message"),
  [
    ("images", 1, "config.folds.count=1: expected 2 or more"),
    ("people", 5, "config.folds.by='people': expected one of images, groups, subjects, one_subject_out"),
    ("images", 11, "config.folds.count=11: the dataset has 10 images; expected at most as many folds"),
    ("groups", 5, "config.folds.count=5: the dataset has 4 groups; expected"),
    ("subjects", 4, "config.folds.count=4: the dataset has 3 subjects; expected"),
  ],
)
def test_rejects_impossible_folds(by, count, message):
  arrays = make_arrays([0] * 10, [0, 1, 2, 3, 3, 3, 3, 3, 3, 3], ["train"] * 10)
  arrays.subject[:] = ["x", "y", *["z"] * 8]
  with pytest.raises(UserError, match=message):
    splits.make_folds(arrays, by, count, 0)


@pytest.mark.parametrize("by", ["subjects", "one_subject_out"])
def test_folds_by_subject_require_two_subjects_and_all_names(by):
  arrays = make_arrays([0] * 4, range(4), ["train"] * 4)
  with pytest.raises(
    UserError, match=f"config.folds.by='{by}': the dataset names no subjects; use 'images' or 'groups'"
  ):
    splits.make_folds(arrays, by, 2, 0)
  arrays.subject[:] = "x"
  with pytest.raises(UserError, match="the dataset has 1 subjects"):
    splits.make_folds(arrays, by, 2, 0)
  arrays.subject[:1] = ""
  with pytest.raises(UserError, match="names no subject for 1 of 4 examples"):
    splits.make_folds(arrays, by, 2, 0)


@pytest.mark.parametrize("by", [*UNITS, "one_subject_out"])
def test_fold_is_the_test_split_and_a_share_of_the_rest_is_held_out(frames, by):
  folds = splits.make_folds(frames, by, 5, 0)
  for number in range(0, folds.count, 3):
    result = splits.for_fold(frames, folds, number, 0.2, 0)
    np.testing.assert_array_equal(result.rows("test"), np.flatnonzero(folds.number == number))
    parts = {name: result.rows(name) for name in ("train", "validation", "test")}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(frames)))
    if by != "images":
      assert keeps_units_whole(frames.group if by == "groups" else frames.subject, result.split)
    held_out, rest = (
      np.bincount(frames.label[rows], minlength=3)
      for rows in (parts["validation"], np.r_[parts["validation"], parts["train"]])
    )
    largest = {"images": 1, "groups": 9}.get(by, 18)  # largest number of examples in a unit
    assert np.abs(held_out - 0.2 * rest).max() <= largest / 2
    assert held_out.min() > 0
    assert result.notes[-1].startswith(f"fold {number} of {folds.count} (numbered from 0), by ")
    assert f"{len(parts['validation'])} of the others" in result.notes[-1]
    assert result.image is frames.image


def test_seed_determines_the_validation_split_of_a_fold(frames):
  folds = splits.make_folds(frames, "images", 2, 0)
  first, again, other = (splits.for_fold(frames, folds, 0, 0.1, seed).split for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_epoch_has_the_mean_number_of_training_rows_of_all_folds(frames):
  folds = splits.make_folds(frames, "one_subject_out", 2, 0)
  rows = [len(splits.for_fold(frames, folds, number, 0.2, 1).rows("train")) for number in range(40)]
  assert len(set(rows)) > 1
  assert splits.epoch_rows(frames, folds, 0.2, 1) == round(np.mean(rows))


def test_validation_has_a_subject_where_each_has_many_images():
  """A tenth of the six or seven subjects outside a fold is one subject, not zero."""
  label = np.tile(np.repeat(np.arange(3), 10), 10)
  arrays = make_arrays(label, range(300), ["train"] * 300)
  arrays = dataclasses.replace(arrays, subject=np.repeat([f"p{i}" for i in range(10)], 30))
  folds = splits.make_folds(arrays, "subjects", 3, 0)
  for number in range(3):
    result = splits.for_fold(arrays, folds, number, 0.1, 0)
    assert np.bincount(result.label[result.rows("validation")]).tolist() == [10, 10, 10]


def test_rejects_an_unknown_fold_and_one_that_leaves_too_few_subjects(frames):
  folds = splits.make_folds(frames, "subjects", 4, 0)
  for number in (-1, 4):
    with pytest.raises(UserError, match=f"config.folds.number={number}: expected 0 to 3, there are 4 folds"):
      splits.for_fold(frames, folds, number, 0.1, 0)
  with pytest.raises(UserError, match="config.data.validation_share=1.0: expected a share"):
    splits.for_fold(frames, folds, 0, 1.0, 0)
  is_selected = frames.subject == frames.subject[0]
  is_selected |= frames.subject == next(s for s in frames.subject if s != frames.subject[0])
  two_subjects = make_arrays(frames.label[is_selected], range(is_selected.sum()), ["train"] * is_selected.sum())
  two_subjects.subject[:] = np.where(frames.subject[is_selected] == frames.subject[0], "x", "y")
  with pytest.raises(
    UserError, match=r"config.folds.number=1: the \d+ examples outside the fold have too few subjects"
  ):
    splits.for_fold(two_subjects, splits.make_folds(two_subjects, "subjects", 2, 0), 1, 0.1, 0)


@pytest.mark.parametrize("by", [*UNITS, "one_subject_out"])
def test_saved_folds_are_loaded_unchanged_for_any_image_size(frames, by, tmp_path):
  folds = splits.make_folds(frames, by, 5, 3)
  folds.save(tmp_path / "splits.json")
  assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]
  larger = dataclasses.replace(frames, image=frames.image.repeat(2, axis=1).repeat(2, axis=2), split=frames.split[::-1])
  loaded = splits.load_folds(tmp_path / "splits.json", larger)
  for field in dataclasses.fields(folds):
    np.testing.assert_array_equal(getattr(loaded, field.name), getattr(folds, field.name))
  expected = splits.for_fold(frames, folds, 2, 0.1, 0).split
  np.testing.assert_array_equal(splits.for_fold(larger, loaded, 2, 0.1, 0).split, expected)
  content = json.loads((tmp_path / "splits.json").read_text())
  assert content.keys() == {"by", "count", "seed", "examples", "digest", "classes", "fold", "notes"}
  assert content["fold"] == folds.number.tolist()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"label": lambda a: a.label[::-1].copy()}, "the labels or subjects differ"),
    ({"subject": lambda a: np.roll(a.subject, 1)}, "the labels or subjects differ"),
    ({"class_names": lambda a: ("angry", "happy", "sad")}, r"the classes differ: \['angry', 'happy', 'contempt'\] in"),
  ],
)
def test_rejects_folds_of_another_dataset(frames, change, message, tmp_path):
  path = tmp_path / "splits.json"
  splits.make_folds(frames, "subjects", 5, 0).save(path)
  other = dataclasses.replace(frames, **{key: make(frames) for key, make in change.items()})
  with pytest.raises(UserError, match=f"splits.json has folds of another dataset: {message}"):
    splits.load_folds(path, other)
  with pytest.raises(UserError, match=r"the examples differ: \d+ in the file, 3 here"):
    splits.load_folds(path, make_arrays([0, 1, 2], range(3), ["train"] * 3))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"by": "file"}, "by='file' is not one of images"),
    ({"by": []}, r"by=\[\] is not one of images"),
    ({"count": 1}, "and count 2 or more"),
    ({"count": "5"}, "count and seed must be whole numbers"),
    ({"seed": None}, "count and seed must be whole numbers"),
    ({"fold": [0, 1]}, "'fold' is not a list of "),
    ({"fold": 7}, "'fold' is not a list of "),
    ({"count": 6}, "must number 6 folds from 0 to 5, each with an example"),
    ({"count": 4}, "must number 4 folds from 0 to 3"),
    ({"digest": None}, "'digest' is missing"),
  ],
)
def test_rejects_a_file_with_invalid_folds(frames, change, message, tmp_path):
  path = tmp_path / "splits.json"
  splits.make_folds(frames, "subjects", 5, 0).save(path)
  content = {**json.loads(path.read_text()), **change}
  if content["digest"] is None:
    del content["digest"]
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=f"splits.json: .*{message}") as error:
    splits.load_folds(path, frames)
  assert "\n" not in str(error.value)


def test_rejects_a_file_that_splits_a_subject(frames, tmp_path):
  path = tmp_path / "splits.json"
  splits.make_folds(frames, "subjects", 5, 0).save(path)
  content = json.loads(path.read_text())
  content["fold"][0] = (content["fold"][0] + 1) % 5
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match="a subject is in two folds"):
    splits.load_folds(path, frames)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3"])
def test_rejects_a_file_that_is_not_a_json_object(frames, content, tmp_path):
  (tmp_path / "splits.json").write_text(content)
  with pytest.raises(UserError, match="splits.json: not JSON, or not a set of folds; expected"):
    splits.load_folds(tmp_path / "splits.json", frames)


def test_rejects_a_missing_file_and_one_that_cannot_be_written(frames, tmp_path):
  with pytest.raises(UserError, match="splits.json: cannot be read"):
    splits.load_folds(tmp_path / "splits.json", frames)
  (tmp_path / "splits.json").mkdir()
  with pytest.raises(UserError, match="splits.json: cannot write the folds"):
    splits.make_folds(frames, "images", 5, 0).save(tmp_path / "splits.json")
  assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]
