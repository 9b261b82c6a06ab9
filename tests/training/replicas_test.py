"""Replicas of a run and their data."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from fer_jax.config.parsing import parse
from fer_jax.data import arrays as arrays_lib
from fer_jax.data import duplicates
from fer_jax.runtime.errors import UserError
from fer_jax.training import replicas
from tests.tiny_run import config, tiny_arrays


@pytest.mark.parametrize(("count", "together", "sizes"), [(10, 10, [10]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1])])
def test_waves_contain_all_replicas_in_order(count, together, sizes):
  found = replicas.waves(range(count), together)
  assert [len(wave) for wave in found] == sizes
  assert [number for wave in found for number in wave] == list(range(count))


def without_validation(*args, **kwargs):
  arrays = tiny_arrays()
  return dataclasses.replace(arrays, split=np.where(arrays.split == "test", "test", "train"))


def with_train_duplicates(*args, **kwargs):
  """Returns a dataset in which ten test images also appear in training."""
  arrays = tiny_arrays()
  arrays.image[:10], arrays.label[:10] = arrays.image[-10:], arrays.label[-10:]
  return arrays


class TestExpansion:
  """Expansion of a dataset of 101 images of three classes and seven people."""

  FACTORS: ClassVar = np.array([4, 2, 4])

  def plan(self, monkeypatch, protocol, load=tiny_arrays, **changes):
    monkeypatch.setattr(arrays_lib, "load", load)
    run_config = config(**changes)
    run_config.expansion = {"protocol": protocol, "factor": 4, "by_class": {"b": 2}}
    return replicas.plan_replicas(parse(run_config))

  @pytest.mark.parametrize(
    "changes",
    [
      {"folds.by": "subjects", "folds.count": 3, "replicas": 0},
      {"folds.by": "images", "folds.count": 3, "replicas": 2},
      {"folds.by": "one_subject_out", "replicas": 1, "folds.number": 4},
      {"replicas": 2},
    ],
    ids=["subjects", "images", "one subject out", "predefined splits"],
  )
  @pytest.mark.parametrize("load", [tiny_arrays, without_validation])
  def test_honest_expands_only_training(self, monkeypatch, changes, load):
    whole = load()
    monkeypatch.setattr(arrays_lib, "load", load)
    plain = replicas.plan_replicas(parse(config(**changes)))
    plan = self.plan(monkeypatch, "honest", load, **changes)
    for replica, before in zip(plan.replicas, plain.replicas, strict=True):
      arrays = replica.arrays
      assert arrays.image is plan.replicas[0].arrays.image
      for split in ("validation", "test"):
        np.testing.assert_array_equal(arrays.rows(split), before.arrays.rows(split))
      train, originals = arrays.rows("train"), before.arrays.rows("train")
      assert set(arrays.origin[train].tolist()) == set(originals.tolist())
      np.testing.assert_array_equal(np.bincount(arrays.origin[train])[originals], self.FACTORS[whole.label[originals]])
      assert not duplicates.duplicated_in_training(arrays).any()
      assert arrays.notes[: len(before.arrays.notes)] == before.arrays.notes
      assert f"the {len(originals)} training examples became {len(train)} (a " in arrays.notes[-2]
      test = len(arrays.rows("test"))
      assert arrays.notes[-1].startswith(f"0 of the {test} test examples also appear in training, as the same image")
    sizes = [len(each.arrays.rows("train")) for each in plan.replicas]
    if plan.folds is None:
      assert plan.epoch_rows == sizes[0]
    elif len(sizes) == plan.folds.count:
      assert plan.epoch_rows == round(np.mean(sizes))
    assert plan.epoch_rows > 2 * plain.epoch_rows

  def test_predefined_splits_copy_only_training_examples(self, monkeypatch):
    assert len(self.plan(monkeypatch, "honest").replicas[0].arrays) == 101 + 20 * 3 + 20 + 20 * 3

  def test_honest_drops_copies_with_their_originals(self, monkeypatch):
    changes = {"data.drop": "train_duplicates", "replicas": 1}
    (replica,) = self.plan(monkeypatch, "honest", with_train_duplicates, **changes).replicas
    assert not np.isin(replica.arrays.origin[replica.arrays.rows("train")], np.arange(10)).any()
    (undropped,) = self.plan(monkeypatch, "honest", with_train_duplicates, replicas=1).replicas
    assert duplicates.duplicated_in_training(undropped.arrays).tolist() == [False] * 11 + [True] * 10

  def test_paper_splits_copies_like_originals(self, monkeypatch, tmp_path):
    changes = {"folds.by": "images", "folds.count": 3, "replicas": 0}
    plan = self.plan(monkeypatch, "paper", **changes)
    label = tiny_arrays().label
    n = int(self.FACTORS[label].sum())
    assert len(plan.folds.number) == n
    tests = [replica.arrays.rows("test") for replica in plan.replicas]
    assert sorted(np.concatenate(tests).tolist()) == list(range(n))
    for replica, test in zip(plan.replicas, tests, strict=True):
      arrays = replica.arrays
      assert arrays.image is plan.replicas[0].arrays.image
      assert len(test) in (n // 3, n // 3 + 1)
      assert len(test) + len(arrays.rows("train")) + len(arrays.rows("validation")) == n
      seen = np.isin(arrays.origin[test], arrays.origin[arrays.rows("train")])
      np.testing.assert_array_equal(duplicates.duplicated_in_training(arrays), seen)
      assert 0.5 < seen.mean() < 1
      assert f"the 101 examples became {n} (a 34 x 4 = 136, b 34 x 2 = 68, c 33 x 4 = 132)" in arrays.notes[-2]
      assert arrays.notes[-1].startswith(
        f"{seen.sum()} of the {len(test)} test examples also appear in training, as the same image or as a copy of it: "
        "this is the paper's protocol, not a measure of new faces; "
      )
    assert plan.epoch_rows == round(np.mean([len(each.arrays.rows("train")) for each in plan.replicas]))
    plan.folds.save(tmp_path / "splits.json")
    again = self.plan(
      monkeypatch, "paper", **{"folds.by": "file", "folds.file": str(tmp_path / "splits.json"), "replicas": 0}
    )
    for one, other in zip(again.replicas, plan.replicas, strict=True):
      np.testing.assert_array_equal(one.arrays.split, other.arrays.split)
    with pytest.raises(UserError, match=f"the examples differ: {n} in the file, 101 here"):
      self.plan(monkeypatch, "honest", **{"folds.by": "file", "folds.file": str(tmp_path / "splits.json")})

  @pytest.mark.parametrize("by", ["groups", "subjects"])
  def test_copies_stay_with_their_group_and_subject(self, monkeypatch, by):
    plan = self.plan(monkeypatch, "paper", **{"folds.by": by, "folds.count": 3})
    (replica,) = plan.replicas
    assert not duplicates.duplicated_in_training(replica.arrays).any()
    assert "the paper's protocol" not in replica.arrays.notes[-1]
    np.testing.assert_array_equal(plan.folds.number, plan.folds.number[replica.arrays.origin])

  def test_honest_folds_contain_only_originals(self, monkeypatch):
    changes = {"folds.by": "images", "folds.count": 3}
    assert len(self.plan(monkeypatch, "honest", **changes).folds.number) == 101

  def test_without_expansion_there_is_no_origin(self, monkeypatch):
    (replica,) = self.plan(monkeypatch, "").replicas
    assert replica.arrays.origin is None
    assert not any("expan" in note for note in replica.arrays.notes)
