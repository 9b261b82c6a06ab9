import dataclasses
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.data import arrays as prepared
from fer_jax.data import audit, builders, duplicates
from fer_jax.data.arrays import Arrays

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "fer2013"


def photographs(number, size=48, channels=1, seed=0):
  """Returns smooth random images, uint8 [number, size, size, channels], which all differ like photographs."""
  coarse = np.random.default_rng(seed).uniform(0, 255, (number, 12, 12, channels)).astype(np.float32)
  resized = [
    cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels) for one in coarse
  ]
  return np.clip(np.stack(resized), 0, 255).astype(np.uint8)


def toned(image):
  """Returns images with lower contrast and higher brightness, like other prints of the same photographs."""
  return np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8)


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


def planted_duplicates():
  """Returns ten examples: images 0, 5 and 7 are equal, 1 and 6, 4 and 8; 3 is another print of 2; 9 is constant."""
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


@pytest.fixture
def planted():
  return planted_duplicates()


class TestCounts:
  def test_constant_images_have_one_colour(self):
    image = photographs(4, channels=3)
    image[1] = 7
    image[2] = [1, 2, 3]  # one colour
    image[3] = 7
    image[3, 47, 47, 2] = 8
    assert audit.constant(image).tolist() == [False, True, True, False]

  def test_conflicting_groups_have_several_labels(self):
    group, label = np.array([5, 2, 5, 2, 7, 9, 9]), np.array([0, 1, 0, 2, 3, 4, 0])
    assert audit.conflicting(group, label).tolist() == [2, 9]

  def test_class_counts_of_each_split(self, planted):
    counts = {split: each.tolist() for split, each in audit.class_counts(planted).items()}
    assert counts == {"train": [1, 2, 1], "validation": [2, 0, 1], "test": [1, 2, 0]}
    trained = dataclasses.replace(planted, split=np.full(10, "train"))
    assert list(audit.class_counts(trained)) == ["train"]

  def test_subjects_in_several_splits(self, planted):
    # Examples without a subject count for no subject.
    assert audit.subjects_in_several_splits(planted) == {"ann": ("train", "validation"), "bob": ("train", "test")}

  def test_overlap_of_each_pair_of_splits(self, planted):
    found = duplicates.find_duplicates(planted)
    train, validation, test = (planted.rows(split) for split in prepared.SPLITS)
    assert audit.overlap(planted, found, validation, train) == (3, 2, 1, 1, 1)
    assert audit.overlap(planted, found, test, train) == (3, 2, 0, 1, 1)
    assert audit.overlap(planted, found, test, validation) == (3, 1, 0, 0, 0)
    # A near pair counts in both directions.
    assert audit.overlap(planted, found, train, validation) == (4, 2, 1, 2, 1)

  def test_equal_image_is_not_counted_as_a_near_one(self):
    image = photographs(1)[[0, 0, 0]]
    image[1] = toned(image[0])
    three = dataset(image, [0] * 3, ["train", "train", "test"])
    found = duplicates.find_duplicates(three)
    assert len(found.pairs) == 1
    assert audit.overlap(three, found, np.array([2]), np.array([0, 1]))[:3] == (1, 1, 0)

  def test_subject_overlap_is_unknown_without_subjects(self, planted):
    without_subjects = dataclasses.replace(planted, subject=np.full(10, ""))
    found = duplicates.find_duplicates(without_subjects)
    assert (
      audit.overlap(without_subjects, found, without_subjects.rows("test"), without_subjects.rows("train")).subject
      is None
    )


class TestAudit:
  def test_every_finding_has_a_line(self, planted):
    assert audit.audit(planted) == [
      "6 distinct images in 10 rows: 3 appear more than once",
      "2 of these groups of duplicates have conflicting labels",
      "2 of the 3 validation images also appear in train",
      "2 of the 3 test images also appear in train",
      "2 of the 4 subjects appear in more than one split",
      "1 images are constant (all pixels equal)",
    ]

  def test_no_findings_have_no_lines(self):
    assert audit.audit(dataset(photographs(4), [0] * 4, ["train", "train", "validation", "test"])) == []


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "make_csv.py").is_file(), reason=f"the real FER2013 is not in {DATA}")
def test_duplicates_of_the_real_fer2013(tmp_path):
  subprocess.run([sys.executable, DATA / "make_csv.py", tmp_path], check=True, capture_output=True)
  builders.prepare("fer2013", str(tmp_path / "data"), str(tmp_path))
  fer2013 = prepared.load("fer2013", str(tmp_path / "data"))
  found = duplicates.find_duplicates(fer2013)
  assert len(found.row) == 34034
  assert len(audit.conflicting(found.image_id, fer2013.label)) == 57
  assert audit.constant(fer2013.image).sum() == 12
  train = fer2013.rows("train")
  for split, leaked in (("validation", 280), ("test", 288)):
    assert audit.overlap(fer2013, found, fer2013.rows(split), train).image == leaked
    assert duplicates.duplicated_in_training(fer2013, split).sum() == leaked
  assert np.bincount(found.pairs[:, 2]).tolist() == [125, 0, 258, 0, 540, 0, 731]
  kept = duplicates.without_train_duplicates(fer2013)
  assert len(train) - len(kept.rows("train")) == 703
  assert not duplicates.duplicated_in_training(kept, "validation").any()
