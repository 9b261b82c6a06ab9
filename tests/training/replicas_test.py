"""Which trainings there are, and how many go side by side, decided without a training."""

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

GIB = 2**30


class FakeTrial:
  def __init__(self, memory, seconds):
    self.memory, self.seconds = (lambda: memory), (lambda: seconds)


class Trials:
  """Trials in which each training takes so many bytes, and remembers which were made."""

  def __init__(self, bytes_each=0, in_turn=1.0, beside=1.0):
    self.bytes_each, self.in_turn, self.beside = bytes_each, in_turn, beside
    self.made = []

  def __call__(self, together):
    self.made.append(together)
    seconds = self.in_turn if together <= self.devices else self.beside * together
    return FakeTrial(self.bytes_each * -(-together // self.devices), seconds)

  def choose(self, strategy, count, devices=1):
    self.devices = devices
    return replicas.choose(strategy, count, [object()] * devices, self)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
  monkeypatch.setattr(replicas, "free_memory", lambda device: 10 * GIB)


class TestChoose:
  def test_in_turn_tries_nothing(self):
    trials = Trials()
    assert trials.choose("loop", 10)[:2] == ("loop", 1)
    assert trials.choose("loop", 10, devices=4)[:2] == ("loop", 4)
    assert trials.made == []

  @pytest.mark.parametrize("strategy", ["auto", "loop", "vmap"])
  def test_a_device_for_each_needs_no_choice(self, strategy):
    trials = Trials()
    assert trials.choose(strategy, 3, devices=4) == ("loop", 3, "one to a device")
    assert trials.made == []

  @pytest.mark.parametrize(("beside", "expected"), [(0.5, ("vmap", 10)), (2.0, ("loop", 1)), (1.0, ("loop", 1))])
  def test_the_faster_is_kept(self, beside, expected):
    choice = Trials(beside=beside).choose("auto", 10)
    assert choice[:2] == expected
    assert choice.reason == f"a step of one replica takes 1000.0 ms with loop and {1000 * beside:.1f} ms with vmap"

  def test_time_is_counted_by_training(self):
    # Two devices: a step in turn is of two trainings, one side by side of ten.
    assert Trials(in_turn=1.0, beside=0.4).choose("auto", 10, devices=2).strategy == "vmap"
    assert Trials(in_turn=1.0, beside=0.6).choose("auto", 10, devices=2).strategy == "loop"

  @pytest.mark.parametrize(
    ("count", "devices", "gib_each", "together"),
    [(10, 1, 0.9, 10), (10, 1, 1.0, 5), (10, 1, 2.9, 3), (10, 1, 4, 2), (10, 2, 2.0, 5), (118, 1, 1.0, 9)],
  )
  def test_no_more_than_fit_and_evenly(self, count, devices, gib_each, together):
    trials = Trials(bytes_each=int(gib_each * GIB))
    choice = trials.choose("vmap", count, devices)
    assert choice[:2] == ("vmap", together)
    assert gib_each * -(-together // devices) <= 9
    assert len(trials.made) <= 4
    assert ("at a time" in choice.reason) == (together < count)

  def test_where_not_even_two_fit_they_go_in_turn(self):
    choice = Trials(bytes_each=6 * GIB).choose("auto", 4)
    assert choice[:2] == ("loop", 1)
    assert "4 together would take 24 GiB on a device with 9 GiB free: 1 at a time" in choice.reason

  def test_where_nothing_is_known_of_memory_all_go(self):
    assert Trials(bytes_each=0).choose("vmap", 50)[:2] == ("vmap", 50)


@pytest.mark.parametrize(("count", "together", "sizes"), [(10, 10, [10]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1])])
def test_waves_take_all_in_order(count, together, sizes):
  found = replicas.waves(range(count), together)
  assert [len(wave) for wave in found] == sizes
  assert [number for wave in found for number in wave] == list(range(count))


def without_validation(*args, **kwargs):
  arrays = tiny_arrays()
  return dataclasses.replace(arrays, split=np.where(arrays.split == "test", "test", "train"))


def doubled(*args, **kwargs):
  """Ten pictures of the test split stand in training, too."""
  arrays = tiny_arrays()
  arrays.image[:10], arrays.label[:10] = arrays.image[-10:], arrays.label[-10:]
  return arrays


class TestExpansion:
  """What trainings see of a dataset that is expanded: 101 pictures of three classes and seven people."""

  FACTORS: ClassVar = np.array([4, 2, 4])

  def plan(self, monkeypatch, protocol, load=tiny_arrays, **changes):
    monkeypatch.setattr(arrays_lib, "load", load)
    given = config(**changes)
    given.expansion = {"protocol": protocol, "factor": 4, "by_class": {"b": 2}}
    return replicas.plan(parse(given))

  @pytest.mark.parametrize(
    "changes",
    [
      {"folds.by": "subjects", "folds.count": 3, "replicas": 0},
      {"folds.by": "images", "folds.count": 3, "replicas": 2},
      {"folds.by": "one_subject_out", "replicas": 1, "folds.number": 4},
      {"replicas": 2},
    ],
    ids=["subjects", "images", "one subject out", "own splits"],
  )
  @pytest.mark.parametrize("load", [tiny_arrays, without_validation])
  def test_honest_expands_training_alone(self, monkeypatch, changes, load):
    whole = load()
    monkeypatch.setattr(arrays_lib, "load", load)
    plain = replicas.plan(parse(config(**changes)))
    plan = self.plan(monkeypatch, "honest", load, **changes)
    for replica, before in zip(plan.replicas, plain.replicas, strict=True):
      arrays = replica.arrays
      assert arrays.image is plan.replicas[0].arrays.image
      for split in ("validation", "test"):
        np.testing.assert_array_equal(arrays.rows(split), before.arrays.rows(split))
      train, pictures = arrays.rows("train"), before.arrays.rows("train")
      assert set(arrays.origin[train].tolist()) == set(pictures.tolist())
      np.testing.assert_array_equal(np.bincount(arrays.origin[train])[pictures], self.FACTORS[whole.label[pictures]])
      assert not duplicates.seen_in_training(arrays).any()
      assert arrays.notes[: len(before.arrays.notes)] == before.arrays.notes
      assert f"the {len(pictures)} training examples became {len(train)} (a " in arrays.notes[-2]
      test = len(arrays.rows("test"))
      assert arrays.notes[-1].startswith(f"0 of the {test} test examples also appear in training, as the same image")
    sizes = [len(each.arrays.rows("train")) for each in plan.replicas]
    if plan.folds is None:
      assert plan.epoch_rows == sizes[0]
    elif len(sizes) == plan.folds.count:
      assert plan.epoch_rows == round(np.mean(sizes))
    assert plan.epoch_rows > 2 * plain.epoch_rows

  def test_own_splits_make_copies_of_training_examples_only(self, monkeypatch):
    assert len(self.plan(monkeypatch, "honest").replicas[0].arrays) == 101 + 20 * 3 + 20 + 20 * 3

  def test_honest_leaves_out_copies_with_their_pictures(self, monkeypatch):
    changes = {"data.drop": "train_duplicates", "replicas": 1}
    (replica,) = self.plan(monkeypatch, "honest", doubled, **changes).replicas
    assert not np.isin(replica.arrays.origin[replica.arrays.rows("train")], np.arange(10)).any()
    (kept,) = self.plan(monkeypatch, "honest", doubled, replicas=1).replicas
    assert duplicates.seen_in_training(kept.arrays).tolist() == [False] * 11 + [True] * 10

  def test_paper_divides_copies_like_any_pictures(self, monkeypatch, tmp_path):
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
      np.testing.assert_array_equal(duplicates.seen_in_training(arrays), seen)
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
  def test_copies_stay_with_their_group_and_their_person(self, monkeypatch, by):
    plan = self.plan(monkeypatch, "paper", **{"folds.by": by, "folds.count": 3})
    (replica,) = plan.replicas
    assert not duplicates.seen_in_training(replica.arrays).any()
    assert "the paper's protocol" not in replica.arrays.notes[-1]
    np.testing.assert_array_equal(plan.folds.number, plan.folds.number[replica.arrays.origin])

  def test_honest_folds_are_of_the_pictures(self, monkeypatch):
    changes = {"folds.by": "images", "folds.count": 3}
    assert len(self.plan(monkeypatch, "honest", **changes).folds.number) == 101

  def test_without_expansion_nothing_has_an_origin(self, monkeypatch):
    (replica,) = self.plan(monkeypatch, "").replicas
    assert replica.arrays.origin is None
    assert not any("expan" in note for note in replica.arrays.notes)
